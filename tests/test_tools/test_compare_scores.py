"""The study of scores as a command, on a small data set."""

import json

import pytest
import torch
from commands import run_tool
from scenes import ROOT, at

from mmsparse.cli.building import build_plain
from mmsparse.configs import read_config

CONFIG = ROOT / "configs/demo/atss_dynamic-convnext-nano_whole-m60_fpn_finetune_scenes.py"


@pytest.fixture(scope="module")
def command(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    dense = read_config(str(ROOT / "configs/demo/atss_convnext-nano_fpn_scenes.py"))
    torch.save(dict(state_dict=build_plain(dense).state_dict()), folder / "dense.pth")
    pairs = {**at(scenes), "load_from": folder / "dense.pth", "max_iters": 1, "train_cfg.max_iters": 1}
    more = {"param_scheduler": "[]", "default_hooks.logger.interval": 1}
    options = [f"{key}={value}" for key, value in {**pairs, **more}.items()]
    return folder, [str(CONFIG), "--out-dir", str(folder / "out"), "--at", "0.6", "0.5", "--cfg-options", *options]


def test_each_kind_is_trained_once_at_its_budget(command):
    folder, args = command
    code, out, err = run_tool("misc/compare_scores", *args, "--kinds", "gain", "random", "dense")
    assert code == 0, err[-3000:]
    results = json.loads((folder / "out/results.json").read_text())
    assert {kind: list(shares) for kind, shares in results.items()} == {
        "gain": ["0.6", "0.5"],
        "random": ["0.6", "0.5"],
        "dense": ["1.0"],
    }
    assert set(results["gain"]["0.6"]) == {"coco/bbox_mAP", "coco/bbox_AR@100"}
    rows = [line.split()[:2] for line in out.splitlines()[-5:]]
    assert rows[:2] == [["gain", "60%"], ["gain", "50%"]] and rows[-1] == ["dense", "100%"]
    logs = [next((folder / "out" / kind).glob("*/vis_data/scalars.json")) for kind in ("gain", "dense")]
    routed, dense = (json.loads(log.read_text().splitlines()[0]) for log in logs)
    assert routed["loss_sparsity"] == 0.0 and "keep_ratio/s0b0" in routed  # the selectors hold the count
    assert routed["loss_distill_feat"] >= 0.0 and {key for key in dense if "loss" in key} == {
        "loss",
        "loss_cls",
        "loss_bbox",
        "loss_centerness",
    }  # the config's teacher, and a dense training without one
    time = (folder / "out/results.json").stat().st_mtime_ns
    code, again, _ = run_tool("misc/compare_scores", *args, "--kinds", "gain", "random", "dense")
    assert (
        code == 0 and again == out[out.index("scores") :] and (folder / "out/results.json").stat().st_mtime_ns == time
    )


def test_a_config_that_starts_from_nothing_is_refused(command):
    folder, args = command
    more = ["load_from=nowhere.pth", "--kinds", "gain", "--out-dir", str(folder / "other")]
    code, _, err = run_tool("misc/compare_scores", *args, *more)
    assert code == 2 and "nowhere.pth" in err
