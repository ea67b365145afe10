"""A study of two trainings, the second from the first."""

import json

import pytest
import torch
from commands import run_tool
from mmengine.config import Config
from PIL import Image
from scenes import ROOT, at, make

from mmsparse.checkpoints import read_checkpoint
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_plain
from mmsparse.deploy.rivals import Results
from mmsparse.visualization.front import Point, front

DENSE = str(ROOT / "configs/demo/atss_convnext-mini_scenes.py")
ROUTED = str(ROOT / "configs/demo/atss_dynamic-convnext-mini_k50_finetune_scenes.py")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make(tmp_path_factory.mktemp("scenes"))


def study(folder, runs, pairs=(), *more):
    path = folder / "tiny.py"
    path.write_text(f"runs = {runs!r}\npairs = {list(pairs)!r}\n")
    return run_tool("misc/study", path, "--out-dir", folder / "out", *more)


def test_runs_stand_on_each_other_and_are_done_once(scenes, tmp_path):
    options = {**at(scenes), "model.test_cfg.score_thr": 0.0, "param_scheduler": [], "custom_hooks": []}
    dense = dict(name="dense", config=DENSE, iterations=2, options=options)
    loss = dict(type="CrossEntropyLoss", use_sigmoid=True, _delete_=True)  # each reading has to take the old one away
    own = {"custom_hooks": [dict(type="mmsparse.SparsityHook")], "model.bbox_head.loss_cls": loss}
    routed = dict(
        name="routed", config=ROUTED, start="dense", iterations=2, options={**options, **own}, at=["own", 0.8, 1.0]
    )
    size = {"test_dataloader.dataset.pipeline.1.scale": (96, 96)}
    small = dict(name="small", config=DENSE, start="dense", train=False, options={**options, **size})
    runs = [routed, dense, small]
    code, out, err = study(tmp_path, runs, [("routed@1.0", "dense"), ("routed", "routed")])
    assert code == 0, err[-3000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results) == ["routed", "dense", "small"] and list(results["routed"]) == ["own", "0.8", "1.0"]
    own, share, whole = (results["routed"][at] for at in ("own", "0.8", "1.0"))
    assert whole["macs"] == results["dense"]["own"]["macs"] > share["macs"] > own["macs"]
    assert share["macs"] / whole["macs"] == pytest.approx(0.8, abs=0.01)
    assert set(own["keep_ratio"].values()) == {0.5} and set(whole["keep_ratio"].values()) == {1.0}
    assert "routed - routed: +0.0000, 95 % in +0.0000 to +0.0000" in out and "routed@1.0 - dense: " in out
    before = (tmp_path / "out" / "dense" / "result.json").stat().st_mtime_ns
    assert results["small"]["own"]["shape"] == [96, 96] and results["dense"]["own"]["shape"] == [160, 160]
    code, again, _ = study(tmp_path, runs, (), "--time", "eager", "--rounds", "1")
    assert code == 0 and "dense ..." in out and "dense ..." not in again and "routed" in again
    assert (tmp_path / "out" / "dense" / "result.json").stat().st_mtime_ns == before
    rows = {row.network: row for row in Results.read(tmp_path / "out" / "times.json").rows}
    assert list(rows) == ["routed@own", "routed@0.8", "routed@1.0", "dense@own", "small@own"]
    assert rows["routed@own"].macs < rows["routed@0.8"].macs < rows["routed@1.0"].macs == rows["dense@own"].macs
    assert "On the front of eager f32: " in again
    assert Image.open(tmp_path / "out" / "front_eager_f32.png").size == (900, 550)


def test_a_run_begins_with_the_backbone_of_another(scenes, tmp_path):
    options = {**at(scenes), "param_scheduler": [], "custom_hooks": [], "optim_wrapper.optimizer.lr": 1e-12}
    first = dict(name="first", config=DENSE, iterations=1, options=options)
    second = {**first, "name": "second", "backbone": "first", "seed": 1}
    absent = {"model.backbone.init_cfg": dict(type="Pretrained", checkpoint="nowhere.pth", _delete_=True)}
    third = {**first, "name": "third", "start": "second", "options": {**options, **absent}}  # has all weights
    code, _, err = study(tmp_path, [third, second, first])
    assert code == 0, err[-3000:]
    states = [
        read_checkpoint(str(tmp_path / "out" / name / "iter_1.pth"))["state_dict"] for name in ("first", "second")
    ]
    same = {key for key, value in states[0].items() if torch.allclose(value, states[1][key], atol=1e-6)}
    assert {key for key in states[0] if key.startswith("backbone.")} <= same
    assert "neck.lateral_convs.0.conv.weight" not in same


@pytest.mark.usefixtures("unfilled")
@pytest.mark.parametrize("path", sorted((ROOT / "configs/study").glob("*.py")), ids=lambda path: path.stem)
def test_ours_name_what_is_there(path):
    runs = Config.fromfile(path).runs
    names = {run.name for run in runs}
    for run in runs:
        build_plain(open_config(str(path.parent / run.config), dict(run.get("options", {}))))
        assert {run[key] for key in ("start", "backbone") if key in run} < names


def test_who_is_on_the_front():
    """Nobody is both quicker and better; of equals in time the better one, of equals in the metric the quicker one."""
    dense, routed, narrow, late, worse, equal = points = [
        Point("dense", "dense", 60.0, 0.41),
        Point("routed", "routed", 40.0, 0.40),
        Point("dense", "narrow", 30.0, 0.385),
        Point("routed", "late", 61.0, 0.41),
        Point("random", "worse", 40.0, 0.12),
        Point("small", "equal", 31.0, 0.385),
    ]
    assert front(points) == [narrow, routed, dense]
    assert late not in front(points) and worse not in front(points) and equal not in front(points)


def test_a_start_that_is_none_is_named(tmp_path):
    code, _, err = study(tmp_path, [dict(name="routed", config=ROUTED, start="dens")])
    assert code == 2 and "has no runs ['dens']; it has ['routed']" in err
