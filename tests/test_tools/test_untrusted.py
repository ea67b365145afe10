"""A checkpoint with a program in it: the program does not run, whoever loads the file, unless it is trusted."""

import json
import os
import pickle
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run_tool, tool
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from scenes import ROOT, options
from torch import nn

import mmsparse
from mmsparse.checkpoints import load_weights, read_checkpoint
from mmsparse.cli.building import build_plain
from mmsparse.cli.commands import app
from mmsparse.cli.main import main
from mmsparse.configs import read_config
from mmsparse.engine import TeacherHook
from mmsparse.models import DynamicSwin

DEMO = "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py"
TINY_SWIN = dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), sparsity=dict(places=[(2, 1)]))


class Program:
    """Unpickled, it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture(scope="module")
def weights():
    return build_plain(read_config(DEMO)).state_dict()


@pytest.fixture
def poisoned(weights, tmp_path):
    """A training's checkpoint with a program, and the marker that it would leave."""
    content = dict(state_dict=weights, meta=dict(epoch=0, iter=0), message_hub=Program(tmp_path / "marker"))
    torch.save(content, tmp_path / "poisoned.pth")
    return tmp_path / "poisoned.pth", tmp_path / "marker"


def child(folder, text):
    (folder / "config.py").write_text(f"_base_ = {str(ROOT / DEMO)!r}\n{text}")
    return folder / "config.py"


@pytest.mark.parametrize(
    "name, args",
    [
        ("test", [DEMO, "FILE"]),
        ("train", [DEMO, "--load-from", "FILE"]),
        ("train", [DEMO, "--resume", "FILE"]),
        ("train", ["TEACHER"]),
        ("train", ["INIT"]),
        ("analysis_tools/get_flops", [DEMO, "--checkpoint", "FILE"]),
        ("analysis_tools/benchmark", [DEMO, "--checkpoint", "FILE"]),
        ("analysis_tools/keep_maps", [DEMO, "FILE", "--out", "OUT"]),
        ("model_converters/publish_model", ["FILE", "OUT/x.pth"]),
        ("model_converters/dense_to_mmsparse", ["FILE", "OUT/x.pth"]),
        ("model_converters/dynamicvit_to_mmsparse", ["FILE", "OUT/x.pth"]),
    ],
)
def test_no_tool_runs_it(name, args, poisoned, scenes, tmp_path):
    file, marker = poisoned
    hooks = f"[dict(type='mmsparse.SparsityHook'), dict(type='mmsparse.TeacherHook', checkpoint={str(file)!r})]"
    words = {
        "TEACHER": lambda: child(tmp_path, f"custom_hooks = {hooks}"),
        "INIT": lambda: child(
            tmp_path, f"model = dict(backbone=dict(init_cfg=[dict(type='Pretrained', checkpoint={str(file)!r})]))"
        ),
        "FILE": lambda: file,
        "OUT": lambda: tmp_path / "out",
        "OUT/x.pth": lambda: tmp_path / "out/x.pth",
    }
    args = [words[arg]() if arg in words else arg for arg in args]
    more = []
    if name in ("test", "train"):
        more = ["--work-dir", tmp_path / "runs"]
    if "converters" not in name:
        more += options(scenes, iters=1)
    code, out, err = run_tool(name, *args, *more)
    assert not marker.exists()
    line = err.splitlines()[-1]
    assert code == 2 and "Traceback" not in err, (out, err)
    assert f"{file} holds more than weights (posix.mkdir)" in line and "--trust-checkpoint" in line, err


@pytest.mark.parametrize("by", ["load_weights", "mmengine", "init_cfg", "DynamicSwin", "TeacherHook"])
def test_nothing_runs_it_from_python(by, poisoned):
    file, marker = map(str, poisoned)
    model = nn.Module()
    model.backbone = DynamicSwin(**TINY_SWIN)
    init = dict(type="Pretrained", checkpoint=file)
    calls = dict(
        load_weights=lambda: load_weights(model, file),
        mmengine=lambda: CheckpointLoader.load_checkpoint(file),
        init_cfg=lambda: BaseModule(init_cfg=init).init_weights(),
        DynamicSwin=lambda: DynamicSwin(**TINY_SWIN, init_cfg=init).init_weights(),
        TeacherHook=lambda: TeacherHook(checkpoint=file).attach(model),
    )
    said = ""
    try:
        calls[by]()
    except (ValueError, RuntimeError) as error:
        said = str(error)
    assert not Path(marker).exists()
    assert f"{file} holds more than weights (posix.mkdir)" in said


def test_nor_does_the_page(poisoned, monkeypatch, capsys):
    file, marker = poisoned
    monkeypatch.setattr(app, "check_gradio", lambda: None)
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        main(["app", DEMO, str(file), "--port", "0"])
    assert f"{file} holds more than weights (posix.mkdir)" in capsys.readouterr().err and not marker.exists()


def test_nor_from_a_server(poisoned, tmp_path, monkeypatch):
    file, marker = poisoned
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{file.name}"
        with pytest.raises(ValueError, match=r"poisoned.pth holds more than weights \(posix.mkdir\)"):
            read_checkpoint(url)
        assert not marker.exists()
        assert read_checkpoint(url, trust=True).keys() == {"state_dict", "meta", "message_hub"}
        server.shutdown()
    assert marker.exists()


def test_what_is_trusted_is_loaded(poisoned, scenes, tmp_path):
    file, marker = poisoned
    args = ["--work-dir", tmp_path / "runs", "--macs-pictures", "0", *options(scenes)]
    assert "bbox_mAP" in tool("test", DEMO, file, "--trust-checkpoint", *args)
    assert marker.exists()
    marker.rmdir()
    tool("model_converters/publish_model", file, tmp_path / "out/x.pth", "--trust-checkpoint")
    assert marker.exists()
    marker.rmdir()
    load_weights(build_plain(read_config(DEMO)), str(file), trust=True)
    assert marker.exists()
    marker.rmdir()
    with pytest.raises(ValueError, match="holds more than weights"):  # it was for that one call
        read_checkpoint(str(file))
    mmsparse.trust_checkpoints()
    read_checkpoint(str(file))
    assert marker.exists()


def test_a_trainings_checkpoint_holds_nothing_else(scenes, tmp_path):
    """With an average, a scheduler that pickles a method, a best score, and a teacher; and it is resumed."""
    hooks = "[dict(type='EMAHook'), dict(type='mmsparse.SparsityHook'), dict(type='mmsparse.TeacherHook')]"
    config = child(
        tmp_path,
        f"custom_hooks = {hooks}\n"
        "param_scheduler = [dict(type='OneCycleLR', eta_max=1e-3, total_steps=8, by_epoch=False)]\n"
        "default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP', rule='greater'))\n",
    )
    short = [o for o in options(scenes, iters=4, **{"train_cfg.val_interval": 2}) if "param_scheduler" not in o]
    tool("train", config, "--work-dir", tmp_path, *short, "train_cfg.max_iters=2")
    content = read_checkpoint(str(tmp_path / "iter_2.pth"))
    assert {"ema_state_dict", "optimizer", "param_schedulers", "message_hub", "teacher_state_dict"} <= content.keys()
    tool("train", config, "--work-dir", tmp_path, "--resume", *short)
    (scalars,) = (file for file in tmp_path.glob("*/vis_data/scalars.json") if '"step": 4' in file.read_text())
    steps = [json.loads(line)["step"] for line in scalars.read_text().splitlines() if '"loss"' in line]
    assert steps == [3, 4]
    history = read_checkpoint(str(tmp_path / "iter_4.pth"))["message_hub"]["log_scalars"]["train/loss"]
    assert len(history.data[0]) == 4 and np.isfinite(history.mean())


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numbers_of_either_numpy(core, tmp_path):
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    told = dict(best=np.float32(0.5), count=np.int64(3), palette=np.arange(6).reshape(2, 3).T, empty=np.zeros(0))
    torch.save(dict(state_dict={}, message_hub=dict(told, loss=history)), tmp_path / "own.pth")
    own = read_checkpoint(str(tmp_path / "own.pth"))
    with zipfile.ZipFile(tmp_path / "own.pth") as old, zipfile.ZipFile(tmp_path / "other.pth", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                assert b"cnumpy._core.multiarray" in data or b"cnumpy.core.multiarray" in data
                for known in (b"core", b"_core"):
                    data = data.replace(b"cnumpy.%s.multiarray" % known, b"cnumpy.%s.multiarray" % core.encode())
            new.writestr(name, data)
    for content in (own, read_checkpoint(str(tmp_path / "other.pth"))):
        found = content["message_hub"]
        assert found["loss"].mean() == 2.0 and found["loss"].statistics("current") == 3.0
        for name, value in told.items():
            assert np.array_equal(found[name], value) and found[name].dtype == value.dtype, name
        assert pickle.dumps(found["palette"]) == pickle.dumps(told["palette"])


@pytest.mark.parametrize(
    "state",
    [
        (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 8, 0),
        (3, "|", (np.dtype("O"), (1,)), None, None, 8, 8, 0),
    ],
    ids=["fields", "subarray"],
)
def test_no_array_points_into_memory(state, tmp_path):
    """A type that pretends to be one of numbers, filled with addresses."""

    class Dtype:
        def __reduce__(self):
            return np.dtype, ("f8", False, True), state

    class Array:
        def __reduce__(self):
            fill = (1, (1,), Dtype(), False, (1).to_bytes(8, "little"))
            return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), fill

    torch.save(dict(state_dict={}, meta=Array()), tmp_path / "x.pth")
    try:
        found = read_checkpoint(str(tmp_path / "x.pth"))["meta"].dtype
    except ValueError:
        return
    assert found == np.float64 and found.fields is None and found.subdtype is None


def test_other_pickles_are_named_and_text_is_no_checkpoint(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "four.pth", pickle_protocol=4)
    with pytest.raises(ValueError, match="four.pth holds a kind of pickle that cannot be checked, .*--trust-ch"):
        read_checkpoint(str(tmp_path / "four.pth"))
    assert torch.equal(read_checkpoint(str(tmp_path / "four.pth"), trust=True)["a"], torch.ones(1))
    torch.save(getattr, tmp_path / "getattr.pth")
    with pytest.raises(ValueError, match="holds no weights, but a function"):
        read_checkpoint(str(tmp_path / "getattr.pth"))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "getattr.pth", weights_only=True)(os, "system")
