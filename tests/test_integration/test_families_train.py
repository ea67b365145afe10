"""Detectors of every family through the Runner: mixed precision, checkpointing, EMA, resuming, two processes."""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from scenes import ROOT, at

from mmsparse.cli.launch import build_runner
from mmsparse.configs import read_config

SPARSITY = dict(keep_ratio=0.7)
VIT = dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96)
BACKBONES = {
    "convnext": dict(type="mmsparse.DynamicConvNeXt", arch="atto", drop_path_rate=0.1, out_indices=[1, 2, 3],
                     gap_before_final_norm=False, with_cp=True, sparsity=SPARSITY),
    "swin": dict(type="mmsparse.DynamicSwin", embed_dims=16, depths=(1, 1, 4, 1), num_heads=(1, 2, 4, 8), window_size=4,
                 out_indices=(1, 2, 3), with_cp=True, sparsity=dict(**SPARSITY, skip_windows=True)),
    "vit": dict(type="mmsparse.DynamicViT", arch=VIT, img_size=96,
                out_type="featmap", drop_path_rate=0.1, with_cp=True, sparsity=SPARSITY),
}  # fmt: skip
NECKS = {
    "convnext": dict(in_channels=[80, 160, 320], num_outs=3),
    "swin": dict(in_channels=[32, 64, 128], num_outs=3),
    "vit": dict(_delete_=True, type="mmsparse.SimpleFeaturePyramid", in_channels=48, out_channels=64, num_outs=5),
}


def detector(family: str, data: Path, folder: Path) -> str:
    """A config file: the demo's detector with a small backbone of the family and all the switches on."""
    cfg = Config.fromfile(ROOT / "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py")
    changes = {
        **at(data),
        "model.backbone": dict(_delete_=True, **BACKBONES[family]),
        "model.neck": NECKS[family],
        "train_cfg.max_iters": 4,
        "train_cfg.val_interval": 100,
        "param_scheduler": [],
        "optim_wrapper.type": "mmsparse.CpuAmpOptimWrapper",
        "default_hooks.checkpoint.interval": 2,
        "default_hooks.checkpoint.max_keep_ckpts": 10,
        "default_hooks.logger.interval": 1,
        "log_processor.window_size": 1,
        "custom_hooks": [
            dict(type="mmsparse.SparsityHook"),
            dict(type="mmsparse.SeedHook", seed=0),
            dict(type="EMAHook", momentum=0.1),
        ],
        "work_dir": str(folder / family),
        "visualizer.name": str(folder / family),  # of one name there is one a process
    }
    strides = [4, 8, 16, 32, 64] if family == "vit" else [8, 16, 32]
    changes["model.bbox_head.anchor_generator.strides"] = strides
    cfg.merge_from_dict(changes)
    folder.mkdir(parents=True, exist_ok=True)
    cfg.dump(folder / f"{family}.py")
    return str(folder / f"{family}.py")


def losses(work_dir: Path) -> dict[int, float]:
    found = {}
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for entry in map(json.loads, file.read_text().splitlines()):
            if "loss" in entry:
                found[entry["step"]] = entry["loss"]
    return found


@pytest.mark.parametrize("family", BACKBONES)
def test_resumed_training_is_the_same_training(family, scenes, tmp_path):
    path = detector(family, scenes, tmp_path)
    build_runner(read_config(path)).train()
    straight = tmp_path / family
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    shutil.copy(straight / "iter_2.pth", resumed)
    options = {"work_dir": str(resumed), "visualizer.name": str(resumed), "resume": True}
    build_runner(read_config(path, {**options, "load_from": str(resumed / "iter_2.pth")})).train()
    assert losses(straight).keys() == {1, 2, 3, 4} and losses(resumed).keys() == {3, 4}
    for step in (3, 4):
        assert losses(resumed)[step] == pytest.approx(losses(straight)[step], abs=1e-5)
    ends = [torch.load(folder / "iter_4.pth", weights_only=False) for folder in (straight, resumed)]
    for key in ("state_dict", "ema_state_dict"):
        assert ends[0][key].keys() == ends[1][key].keys()
        for name, value in ends[0][key].items():
            torch.testing.assert_close(value, ends[1][key][name], rtol=0, atol=1e-5)
    averaged = ends[0]["state_dict"]  # mmengine keeps the trained weights under the other name
    trained = {key.removeprefix("module."): value for key, value in ends[0]["ema_state_dict"].items()}
    scorer = next(key for key in averaged if "router" in key and key.endswith("weight"))
    assert not torch.equal(averaged[scorer], trained[scorer])


@pytest.mark.slow
def test_two_processes(scenes, tmp_path):
    """One launch for all families: each trains, and the processes end with the same weights."""
    paths = [detector(family, scenes, tmp_path) for family in BACKBONES]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}",
         "tests/train_in_turn.py", *paths],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    for family in BACKBONES:
        found = losses(tmp_path / family)
        assert found.keys() == {1, 2} and all(math.isfinite(value) for value in found.values())
        assert f"{family}: the same weights everywhere" in done.stdout
