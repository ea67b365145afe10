"""Commands that somebody gets wrong, and what they are told: docs/reliability.md shows the table of bad_input.json."""

import json
import os
import resource
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pytest
import torch
from full_disk import files_end_at
from mmdet.visualization import DetLocalVisualizer
from scenes import ROOT, at, make

from mmsparse.checkpoints import read_checkpoint
from mmsparse.cli.building import build_model
from mmsparse.cli.commands import app
from mmsparse.cli.main import main
from mmsparse.configs import read_config
from mmsparse.deploy.artifact import PAGE, Artifact
from mmsparse.engine import latest_checkpoint
from mmsparse.engine.whole_checkpoints import WholeFiles

GROUPS = json.loads((Path(__file__).parent / "bad_input.json").read_text())
ALL = [tuple(case) for cases in GROUPS.values() for case in cases]
CASES = [case for case in ALL if len(case) == 2]
OF_MACHINES = [case for case in ALL if len(case) == 3]
ROUTED, DENSE = (f"configs/demo/atss_{kind}_scenes.py" for kind in ("dynamic-convnext-mini_k50", "convnext-mini"))
WHOLE = "configs/dynamic_convnext/retinanet_dynamic-convnext-t_whole-k50_fpn_amp-ms-crop-3x_coco.py"
LEFT = {"made_by.json"}  # may be there in the end, beside logs and the config; nothing that looks like a result
HOOK = "dict(type='mmsparse.SparsityHook')"
HOOKS = {  # of configs
    "on_dense": (DENSE, f"[{HOOK}]"),
    "in_place_on_dense": (DENSE, "[dict(type='mmsparse.InPlaceHook')]"),
    "word_hook": (ROUTED, "['mmsparse.SparsityHook']"),
    "teacher_nobody": (ROUTED, f"[{HOOK}, dict(type='mmsparse.TeacherHook', teacher='nobody')]"),
    "teacher_none": (ROUTED, f"[{HOOK}, dict(type='mmsparse.TeacherHook', teacher='none.py')]"),
    "elastic_one": (ROUTED, f"[{HOOK}, dict(type='mmsparse.ElasticHook', keep_ratios=[0.5])]"),
    "elastic_two": (ROUTED, f"[{HOOK}, dict(type='mmsparse.ElasticHook', keep_ratios=[0.5, 2.0], by_epoch=False)]"),
    "elastic_epochs": (ROUTED, f"[{HOOK}, dict(type='mmsparse.ElasticHook', keep_ratios=[0.5, 0.7])]"),
}


@contextmanager
def full_at_the_second_checkpoint() -> Iterator[None]:
    put, written = WholeFiles.put, []

    def put_or_not(self: WholeFiles, obj: bytes, filepath: str) -> None:
        written.append(filepath)
        with files_end_at(2_000_000 if len(written) == 2 else resource.RLIM_INFINITY):
            put(self, obj, filepath)

    with patch.object(WholeFiles, "put", put_or_not):
        yield


def without(*names: str) -> AbstractContextManager:
    """Python finds no packages of these names."""
    return patch.dict(sys.modules, dict.fromkeys(names))


def beside(folder: Path, *, torch: str | None = None, hidden: tuple[str, ...] = ()) -> dict[str, str]:
    """Where Python looks first: another version of torch, or nothing of some packages and distributions."""
    if torch:
        package, told = folder / "torch", folder / f"torch-{torch}.dist-info"
        package.mkdir()
        told.mkdir()
        (package / "__init__.py").write_text(f"__version__ = {torch!r}\n")
        (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {torch}\n")
    (folder / "sitecustomize.py").write_text(HIDE.format(hidden))
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


HIDE = """
import sys
from importlib import metadata
found = metadata.distribution
def distribution(name):
    if name in {0}:
        raise metadata.PackageNotFoundError(name)
    return found(name)
metadata.distribution = distribution
sys.modules |= dict.fromkeys({0})
"""
HERE: dict[str, Callable[[], AbstractContextManager]] = {  # in this process
    "files end at 100 kB, as on a full disk": partial(files_end_at, 100_000),
    "files end at 2 MB, as on a full disk": partial(files_end_at, 2_000_000),
    "the disk is full at the second checkpoint": full_at_the_second_checkpoint,
    "another program listens there": partial(patch.object, app, "check_gradio"),
    "there is no C++ compiler": partial(patch.dict, os.environ, PATH=""),
    **{f"{name} is not installed": partial(without, name)
       for name in ("gradio", "nncf", "onnx", "onnxruntime", "onnxscript", "openvino", "safetensors", "shtab")},
}  # fmt: skip
NO_FOLDER = "no folder takes temporary files"
ELSEWHERE = {  # in one of its own
    NO_FOLDER: dict(),
    "torch 2.3.0 is installed": dict(torch="2.3.0"),
    "torch is not installed": dict(hidden=("torch",)),
    "mmdet is not installed": dict(hidden=("mmdet", "onedl-mmdetection")),
}


class Program:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Iterator[dict[str, str]]:
    """What commands name in braces."""
    folder = tmp_path_factory.mktemp("bad")
    texts = {"text.txt": "no config\n", "empty.py": "", "raising.py": "1/0\n", "existing.py": "x = 1\n"}
    texts |= {"bad.safetensors": "nothing", "video.mp4": "no video", "zero.png": "", "emptyjson.json": "{}"}
    texts |= {"noimages.json": '{"images": [], "annotations": [], "categories": []}', "folder/x.txt": "x"}
    (folder / "folder").mkdir()
    (folder / "exported").mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
    for name, (base, hooks) in HOOKS.items():
        (folder / f"{name}.py").write_text(f"_base_ = {str(ROOT / base)!r}\ncustom_hooks = {hooks}\n")
    weights = {"weights": {}, "wider": {"model.bbox_head.feat_channels": 32, "model.bbox_head.stacked_convs": 1}}
    states = {name: build_model(read_config(ROUTED, options)).state_dict() for name, options in weights.items()}
    contents = {name: {"state_dict": state, "meta": {}} for name, state in states.items()}
    contents |= {"other": {"state_dict": {"conv.weight": torch.zeros(1)}}, "number": 3, "listed": [1]}
    contents["pickled"] = {"state_dict": {}, "hidden": Program(folder / "hit")}
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pth")
    (folder / "half.pth").write_bytes((folder / "weights.pth").read_bytes()[:20000])
    data, noise = make(folder / "scenes"), np.random.default_rng(0)
    cv2.imwrite(str(folder / "whole.jpg"), noise.integers(0, 255, (400, 400, 3), np.uint8))
    for name, share in (("cut.jpg", 0.5), ("truncated.jpg", 0.01)):
        whole = (folder / "whole.jpg").read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * share)])
    cv2.imwrite(str(folder / "wide.png"), np.zeros((8, 20000, 3), np.uint8))
    cv2.imwrite(str(folder / "nan.tiff"), np.full((96, 96, 3), np.nan, np.float32))
    names = {path.stem: str(path) for path in folder.iterdir()} | {"badsafe": str(folder / "bad.safetensors")}
    names["picture"] = str(next((data / "val" / "images").iterdir()))
    options = " ".join(f"{key}={value}" for key, value in at(data).items())
    page = {field: {} for field in Artifact.__dataclass_fields__}
    page |= dict(format="onnx", kind="detector", precision="f32", batch=2, classes=None)
    (folder / "exported" / PAGE).write_text(json.dumps(page))
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield {**names, "data": options, "hit": str(folder / "hit"), "port": str(door.getsockname()[1])}


def words_of(command: str, files: dict[str, str], out: Path) -> list[str]:
    for short, long in (
        ("SPARSITY", "model.backbone.sparsity"),
        ("ROUTED", ROUTED),
        ("DENSE", DENSE),
        ("WHOLE", WHOLE),
    ):
        command = command.replace(short, long)
    return shlex.split(command.format(**files, out=out, run=f"--work-dir {out}"))


@pytest.fixture
def out(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(sys, "argv", ["mmsparse"])
    monkeypatch.setattr(DetLocalVisualizer, "_instance_dict", {})  # of one name there is one a process
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "run"


def check(code: int, err: str, told: str, out: Path, may_be_left: set[str] = LEFT) -> None:
    last = err.splitlines()[-1]
    assert code == 2 and "Traceback" not in err
    assert last.startswith("mmsparse") and "error: " in last and told in last
    left = [path for path in out.parent.rglob("*") if path.is_file() and path.suffix not in (".log", ".py")]
    assert {path.name for path in left if path.parent.name != "vis_data"} <= may_be_left


@pytest.mark.parametrize("command, told", CASES, ids=[command for command, _ in CASES])
def test_a_mistake_is_one_sentence(command, told, files, out, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words_of(command, files, out))
    check(ended.value.code, capsys.readouterr().err, told, out)
    assert not Path(files["hit"]).exists()


@pytest.mark.parametrize(
    "command, told, where", OF_MACHINES, ids=[f"{where}: {command}" for command, _, where in OF_MACHINES]
)
def test_what_a_machine_lacks_is_one_sentence(command, told, where, files, out, tmp_path, capsys):
    words = words_of(command, files, out)
    if where in HERE:
        with HERE[where](), pytest.raises(SystemExit) as ended:
            main(words)
        code, err = ended.value.code, capsys.readouterr().err
    else:
        no_files = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (0, 0)) if where == NO_FOLDER else None
        line, env = [sys.executable, "-m", "mmsparse", *words], beside(tmp_path, **ELSEWHERE[where])
        done = subprocess.run(line, cwd=ROOT, env=env, preexec_fn=no_files, capture_output=True, text=True)
        code, err = done.returncode, done.stderr
    kept = {"iter_2.pth", "last_checkpoint"} if "second checkpoint" in where else set()
    check(code, err, told, out, LEFT | kept)
    if kept:
        assert latest_checkpoint(out) == str(out / "iter_2.pth")
        assert read_checkpoint(str(out / "iter_2.pth"))["meta"]["iter"] == 2


def test_the_table_is_large_and_has_no_case_twice():
    assert len(ALL) >= 230 and len({(command, *where) for command, _, *where in ALL}) == len(ALL)
    assert {where for *_, where in OF_MACHINES} == HERE.keys() | ELSEWHERE.keys()
