"""``mmsparse calibrate``, as somebody with a deadline runs it."""

import json
from pathlib import Path

import cv2
import pytest
import torch
from commands import run_tool
from scenes import at, make

from mmsparse.apis import get_keep_ratio
from mmsparse.cli.building import build_model
from mmsparse.cli.calibrating import take_validation_set
from mmsparse.configs import read_config
from mmsparse.deploy import Artifact

DETECTOR = "configs/demo/atss_dynamic-convnext-nano_whole-m60_fpn_finetune_scenes.py"
SEGMENTER = "configs/demo/dynamic-convnext-nano_whole-m60_upernet_finetune_scenes.py"
SMALL = "configs/demo/dynamic-convnext-atto_k50_fpn_scenes.py"
DENSE = "configs/demo/atss_convnext-mini_scenes.py"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save({"state_dict": build_model(read_config(SEGMENTER)).state_dict()}, path)
    return path


def calibrate(data, *args, config=SEGMENTER, options=()):
    kinds = ("val_", "test_") if config == DETECTOR else ("val_dataloader", "test_dataloader")
    place = [f"{key}={value}" for key, value in at(data).items() if key.startswith(kinds)]
    args = (config, *args, "--shape", "64", "96", "--rounds", "1", "--warmup", "0", "--threads", "1")
    return run_tool("analysis_tools/calibrate", *args, "--cfg-options", *place, *options)


def test_a_target_is_reached_and_a_second_one_needs_no_measuring(scenes, weights, tmp_path):
    args = (weights, "--runtime", "eager", "--ratios", "0.1", "0.6", "--num-images", "2", "--out", tmp_path)
    code, out, err = calibrate(scenes, *args, "--macs", "0.7")
    assert code == 0, err[-3000:]
    folder = tmp_path / "macs-0.7"
    config = f"{Path(SEGMENTER).stem}_calibrated.py"
    assert {path.name for path in folder.iterdir()} == {config, "calibration.json", "calibration.png"}
    found = json.loads((folder / "calibration.json").read_text())
    assert found["chosen"]["reached"] == pytest.approx(0.7, abs=0.03)
    assert found["dense"]["name"] == "mIoU" and found["chosen"]["metric"] > 0
    model = build_model(read_config(str(folder / config)))
    assert get_keep_ratio(model) == pytest.approx(found["chosen"]["ratios"], abs=1e-4)
    assert cv2.imread(str(folder / "calibration.png")).std() > 20
    measured = json.loads((tmp_path / "measured.json").read_text())
    assert [at["keep_ratio"] for at in measured["groups"][0]["at"]] == [0.1, 0.6]
    assert "calibrated" in out and "as configured" in out

    measured["groups"][0]["at"][0]["metric"] = 0.123
    (tmp_path / "measured.json").write_text(json.dumps(measured))
    code, out, err = calibrate(scenes, *args, "--macs", "0.8")
    assert code == 0 and "0.123" in out, err[-3000:]
    assert json.loads((tmp_path / "macs-0.8" / "calibration.json").read_text())["chosen"]["reached"] > 0.77

    code, _, err = calibrate(scenes, *args, "--macs", "0.05")
    assert code == 2
    assert "Argument `--macs`=0.05 cannot be reached: keep ratios from 0.1 (--ratios) leave 0." in err
    code, _, err = calibrate(scenes, *args, "--latency", "0.8")
    assert code == 2 and "has figures of another run (timed differ)" in err


@pytest.mark.parametrize("stages", [[2], pytest.param([0, 2], marks=pytest.mark.slow)], ids=str)
def test_without_a_target_or_weights_places_keep_their_ratio_or_all(scenes, tmp_path, stages):
    places = ",".join(f"({stage},0)" for stage in stages)
    few = (f"model.backbone.sparsity.places=[{places}]", "model.backbone.sparsity.keep_ratio=0.5")
    args = ("--runtime", "torch-export", "--out", tmp_path)
    code, _, err = calibrate(scenes, *args, config=SMALL, options=few)
    assert code == 0, err[-3000:]
    folder = tmp_path / "as-configured"
    chosen = json.loads((folder / "calibration.json").read_text())["chosen"]["ratios"]
    assert set(chosen) == {f"s{stage}b0" for stage in stages} and set(chosen.values()) <= {0.5, 1.0}
    assert Artifact.read(folder / "torch-export").budgets == pytest.approx(chosen, abs=1e-4)


def test_a_network_that_finds_nothing_has_no_metric(scenes, tmp_path):
    torch.save({"state_dict": build_model(read_config(DETECTOR)).state_dict()}, tmp_path / "weights.pth")
    code, _, err = calibrate(scenes, tmp_path / "weights.pth", "--macs", "0.7", "--out", tmp_path, config=DETECTOR)
    assert code == 2 and "the network finds nothing in the validation set" in err and "--no-metric" in err


def test_pictures_are_of_the_whole_validation_set(scenes, tmp_path):
    cfg = read_config(DETECTOR, at(scenes))
    take_validation_set(cfg, 2, tmp_path)
    assert cfg.test_dataloader.dataset.indices == [0, 2]  # of 4
    page = json.loads((tmp_path / "pictures.json").read_text())
    assert len(page["images"]) == 2 and {label["image_id"] for label in page["annotations"]} <= {
        image["id"] for image in page["images"]
    }
    assert cfg.test_evaluator.ann_file == str(tmp_path / "pictures.json")


@pytest.mark.parametrize("args, said", [
    (("--latency", "1.5"), "Expected argument `--latency` to be above 0 and below 1, but got 1.5"),
    (("--ms", "-1"), "Expected argument `--ms` to be above 0"),
    (("--ratios", "0.5", "1.0"), "Expected argument `--ratios` to be above 0 and below 1, but got 1"),
    (("--num-images", "0"), "Expected argument `--num-images` to be positive, but got 0"),
    (("--runtime", "tensorflow"), "expected eager, compiled, onnx, openvino"),
    (("--latency", "0.5", "--macs", "0.5"), "not allowed with argument"),
])  # fmt: skip
def test_mistakes(scenes, tmp_path, args, said):
    code, _, err = calibrate(scenes, *args, "--out", tmp_path)
    assert code == 2 and said in err
    assert not list(tmp_path.iterdir())


def test_a_dense_network_has_nothing_to_calibrate(scenes, tmp_path):
    code, _, err = calibrate(scenes, "--out", tmp_path, config=DENSE)
    assert code == 2 and "has no dynamic part: there is nothing to calibrate" in err
