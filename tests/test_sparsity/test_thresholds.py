"""Thresholds that all pictures share, learned from the scores that training sees."""

import pytest
import torch

from mmsparse.sparsity import Geometry, ThresholdSelector


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_of_another_precision_learns_its_threshold(dtype: torch.dtype):
    selector = ThresholdSelector().to(dtype).train()
    scores = torch.linspace(-2, 2, 81, dtype=dtype).view(1, 81)
    selector(scores, Geometry((9, 9)), keep_ratio=0.25)
    torch.testing.assert_close(selector.threshold(0.25).item(), 1.0, rtol=0, atol=0.02)
    assert selector.eval()(scores, Geometry((9, 9)), keep_ratio=0.25).keep_mask.sum() == 20
