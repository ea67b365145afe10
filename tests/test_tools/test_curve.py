"""``mmsparse curve``: what each budget costs, of a dense checkpoint without a step of training, and of a routed one."""

import json
from functools import partial

import cv2
import pytest
from commands import run_untrained
from scenes import make

from mmsparse import sparsify
from mmsparse.apis import find_deciders
from mmsparse.cli.building import build_model
from mmsparse.configs import read_config

DENSE = "configs/demo/atss_convnext-nano_fpn_scenes.py"
ROUTED = "configs/demo/dynamic-convnext-atto_k50_fpn_scenes.py"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make(tmp_path_factory.mktemp("scenes"))


curve = partial(run_untrained, "analysis_tools/curve")


def test_a_dense_detector_without_training(scenes, tmp_path):
    code, out, err = curve(
        DENSE, scenes, tmp_path, "--macs", "0.2", "0.7", "0.05", "--json", options=["model.test_cfg.score_thr=0.0"]
    )
    assert code == 0, err[-3000:]
    whole, most, _, floor = found = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert json.loads(out) == {"curve": found}
    assert whole["wanted"] == 1.0 and whole["keep_ratio"] == {} and "coco/bbox_mAP" in whole["metrics"]
    assert most["macs"] / whole["macs"] == pytest.approx(0.7, abs=0.01)
    assert {place.split(".")[0] for place in most["keep_ratio"]} == {"neck", "head"}
    assert "cannot be reached" in floor["why"] and "metrics" not in floor
    assert "routed without training" in err and "cannot be reached" in err
    assert cv2.imread(str(tmp_path / "out" / "curve.png")).std() > 10


def test_a_routed_segmenter_as_it_is(scenes, tmp_path):
    code, out, err = curve(ROUTED, scenes, tmp_path, "--macs", "0.9")
    assert code == 0, err[-3000:]
    whole, point = json.loads((tmp_path / "out" / "curve.json").read_text())
    assert point["macs"] / whole["macs"] == pytest.approx(0.9, abs=0.01) and "without training" not in out
    assert whole["metrics"].keys() == point["metrics"].keys() == {"mIoU"}


def test_a_detector_that_finds_nothing(scenes, tmp_path):
    code, _, err = curve(DENSE, scenes, tmp_path, options=["model.test_cfg.score_thr=1.1"])
    assert code == 2 and "the dense network finds nothing in the test set" in err


def test_a_share_that_is_none(scenes, tmp_path):
    code, _, err = curve(DENSE, scenes, tmp_path, "--macs", "1.5")
    assert code == 2 and "Argument `macs`: expected shares in (0, 1) of the dense arithmetic, but got [1.5]" in err


@pytest.mark.parametrize(
    "config, parts",
    [(DENSE, dict(neck=True, head=True)), ("configs/demo/convnext-atto_fpn_scenes.py", dict(head=True))],
)
def test_dense_weights_are_all_there_is(config, parts):
    """Nothing of chance is left: neither scorers nor fast paths have random weights."""
    dense = read_config(config)
    dynamic = sparsify(dense, 0.5, **parts, train=False)
    assert dynamic.get("custom_hooks") == dense.get("custom_hooks")
    model = build_model(dynamic)
    assert find_deciders(model)
    assert all(not value.any() for name, value in model.state_dict().items() if ".router." in name)
    with pytest.raises(ValueError, match="with `train`=False there is nothing to train"):
        sparsify(dense, 0.5, train=False, teacher="twin")
