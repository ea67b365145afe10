"""Commands that somebody gets wrong, and what they are told: docs/reliability.md shows the table of bad_input.json."""

import json
import os
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.visualization import DetLocalVisualizer
from scenes import ROOT, at, make

from mmsparse.cli.building import build_model
from mmsparse.cli.main import main
from mmsparse.configs import read_config

CASES = [
    (command, told)
    for cases in json.loads((Path(__file__).parent / "bad_input.json").read_text()).values()
    for command, told in cases
]
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


class Program:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """What commands name in braces."""
    folder = tmp_path_factory.mktemp("bad")
    texts = {"text.txt": "no config\n", "empty.py": "", "raising.py": "1/0\n", "existing.py": "x = 1\n"}
    texts |= {"bad.safetensors": "nothing", "video.mp4": "no video", "zero.png": "", "emptyjson.json": "{}"}
    texts |= {"noimages.json": '{"images": [], "annotations": [], "categories": []}', "folder/x.txt": "x"}
    (folder / "folder").mkdir()
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
    return {**names, "data": options, "hit": str(folder / "hit")}


@pytest.mark.parametrize("command, told", CASES, ids=[command for command, _ in CASES])
def test_a_mistake_is_one_sentence(command, told, files, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out" / "run"
    out.parent.mkdir()
    monkeypatch.setattr(sys, "argv", ["mmsparse"])
    monkeypatch.setattr(DetLocalVisualizer, "_instance_dict", {})  # of one name there is one a process
    for short, long in (
        ("SPARSITY", "model.backbone.sparsity"),
        ("ROUTED", ROUTED),
        ("DENSE", DENSE),
        ("WHOLE", WHOLE),
    ):
        command = command.replace(short, long)
    words = shlex.split(command.format(**files, out=out, run=f"--work-dir {out}"))
    with pytest.raises(SystemExit) as ended:
        main(words)
    err = capsys.readouterr().err
    last = err.splitlines()[-1]
    assert ended.value.code == 2 and "Traceback" not in err
    assert last.startswith("mmsparse") and "error: " in last and told in last
    left = [path for path in out.parent.rglob("*") if path.is_file() and path.suffix not in (".log", ".py")]
    assert {path.name for path in left} <= LEFT
    assert not Path(files["hit"]).exists()


def test_the_table_is_large_and_has_no_case_twice():
    assert len(CASES) >= 200 and len({command for command, _ in CASES}) == len(CASES)
