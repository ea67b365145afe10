"""A checkpoint with a program in it: the program does not run, whoever loads the file, unless it is trusted."""

import os
from pathlib import Path

import pytest
import torch
from commands import run_tool
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from scenes import ROOT, options
from torch import nn

from mmsparse.checkpoints import load_weights
from mmsparse.engine import TeacherHook
from mmsparse.engine.launch import build_plain, read_config
from mmsparse.models import DynamicSwin

DEMO = "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py"
TINY_SWIN = dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), sparsity=dict(places=[(2, 1)]))
unsafe = pytest.mark.xfail(strict=True, reason="what a checkpoint holds is unpickled, whatever it is")


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


@unsafe
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


@unsafe
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
