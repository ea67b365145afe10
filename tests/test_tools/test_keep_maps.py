"""Pictures of where a network looked, as a user makes them."""

import cv2
import pytest
import torch
from commands import run_tool
from scenes import at

from mmsparse.engine.launch import build_model, read_config

DETECTOR = "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py"
SEGMENTER = "configs/demo/dynamic-convnext-atto_k50_fpn_scenes.py"


@pytest.fixture
def untrained(tmp_path):
    """A checkpoint of random weights."""

    def save(config):
        torch.manual_seed(0)
        torch.save({"state_dict": build_model(read_config(config)).state_dict()}, tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return save


def keep_maps(config, checkpoint, data, out, *more):
    place = [f"{key}={value}" for key, value in at(data).items() if "test_dataloader" in key]
    return run_tool("analysis_tools/keep_maps", config, checkpoint, "--out", out, *more, "--cfg-options", *place)


@pytest.mark.parametrize("config", [DETECTOR, SEGMENTER])
def test_three_panels_a_picture(config, untrained, scenes, tmp_path):
    code, out, err = keep_maps(config, untrained(config), scenes, tmp_path / "maps", "--num-images", "2")
    assert code == 0 and f"2 pictures in {tmp_path / 'maps'}" in out, err[-3000:]
    for name in ("0000.png", "0001.png"):
        picture = cv2.imread(str(tmp_path / "maps" / name))
        thirds = [picture[:, i * 1430 // 3 : (i + 1) * 1430 // 3] for i in range(3)]
        assert all(third.std() > 20 for third in thirds)  # none is blank
    assert len(list((tmp_path / "maps").iterdir())) == 2
