"""The template's scorer: by hand, the laws, and in a training."""

import re

import pytest
import torch
from commands import tool
from scenes import make, options

from mmsparse.sparsity import Context
from projects.template import SurpriseScorer

CONFIG = "projects/template/configs/atss_surprise-convnext-mini_k50_scenes.py"


def test_by_hand():
    tokens = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]]])  # their mean is (1, 4/3)
    distances = torch.tensor([5 / 3, 5 / 3, 10 / 3])
    torch.testing.assert_close(SurpriseScorer(2)(tokens), distances[None] / (20 / 9) - 1.0)
    alive = torch.tensor([[True, False, True]])
    assert SurpriseScorer(2)(tokens, Context(alive=alive))[0, 0].item() == pytest.approx(0.0, abs=1e-6)  # both as far


def test_trains_and_evaluates(tmp_path):
    data = make(tmp_path / "data")
    args = ["--work-dir", str(tmp_path), *options(data, iters=2)]
    tool("train", CONFIG, *args)
    text = tool("test", CONFIG, str(tmp_path / "iter_2.pth"), "--macs-pictures", "1", *args)
    dense, executed = map(float, re.search(r"backbone +([\d.]+) +([\d.]+)", text).groups())
    assert executed < 0.75 * dense
