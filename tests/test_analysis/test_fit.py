"""A share of the arithmetic in, the keep ratios out."""

import pytest
import torch
from mmdet.models.necks import FPN
from torch import nn

from mmsparse.analysis import count_macs, fit_keep_ratio
from mmsparse.apis import get_keep_ratio, set_keep_ratio
from mmsparse.models import DynamicConvNeXt, DynamicFPN, DynamicViT

SMALL = dict(arch="atto", out_indices=[0, 1, 2, 3], gap_before_final_norm=False)
VIT = dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96)


class Network(nn.Module):
    def __init__(self, **sparsity):
        super().__init__()
        self.backbone = DynamicConvNeXt(**SMALL, sparsity=dict(places="every_stage", **sparsity))
        self.neck = DynamicFPN(in_channels=[40, 80, 160, 320], out_channels=32, num_outs=5, sparsity={})

    def forward(self, x):
        return self.neck(self.backbone(x))


@pytest.mark.parametrize("macs", [0.6, 0.75, 0.9])
def test_equal_ratios_stay_equal(macs):
    model, x = Network().eval(), torch.randn(1, 3, 224, 320)
    set_keep_ratio(model, 1.0)
    dense = count_macs(model, lambda: model(x)).total
    ratios = fit_keep_ratio(model, macs, lambda: model(x))
    assert ratios == get_keep_ratio(model) and len(set(ratios.values())) == 1
    assert count_macs(model, lambda: model(x)).total / dense == pytest.approx(macs, abs=0.003)


@pytest.mark.parametrize("macs, clipped", [(0.6, False), (0.9, True)])
def test_different_ratios_keep_their_proportions(macs, clipped):
    model, x = Network().eval(), torch.randn(1, 3, 224, 320)
    set_keep_ratio(model, 1.0)
    dense = count_macs(model, lambda: model(x)).total
    set_keep_ratio(model, dict(backbone=[0.7, 0.8, 0.7, 0.5, 0.3, 0.4], neck=0.6))
    before = get_keep_ratio(model)
    ratios = fit_keep_ratio(model, macs, lambda: model(x))
    scale = {name: ratio / before[name] for name, ratio in ratios.items()}
    rest = [value for name, value in scale.items() if ratios[name] < 0.99]
    assert max(rest) == pytest.approx(min(rest))
    assert (max(ratios.values()) == 0.99) == clipped
    assert count_macs(model, lambda: model(x)).total / dense == pytest.approx(macs, abs=0.003)


def test_attention_bends_the_line():
    model = DynamicViT(arch=VIT, out_type="featmap", out_indices=[3], sparsity={}).eval()
    x = torch.randn(1, 3, 448, 448)
    set_keep_ratio(model, 1.0)
    dense = count_macs(model, lambda: model(x)).total
    fit_keep_ratio(model, 0.5, lambda: model(x))
    assert count_macs(model, lambda: model(x)).total / dense == pytest.approx(0.5, abs=0.003)


def test_few_locations_make_a_stair():
    """Two of four tiles, or three: nothing between. The search ends all the same, at one of them."""
    fpn = DynamicFPN(in_channels=[32], out_channels=32, num_outs=1, sparsity=dict(tile=4)).eval()
    x = [torch.randn(1, 32, 8, 8)]
    runs = []
    (ratio,) = fit_keep_ratio(fpn, 0.7, lambda: runs.append(fpn(x))).values()
    assert len(runs) <= 3 + 20  # both ends and the dense one; the bracket halves every other time
    assert ratio == pytest.approx(0.625, abs=1e-3)  # from two tiles to three


def test_what_cannot_be_reached():
    model, x = Network().eval(), torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"`macs`=0.05 cannot be reached. Keep ratios from 0.01 to 0.99 leave 0\.\d+ "):
        fit_keep_ratio(model, 0.05, lambda: model(x))
    with pytest.raises(ValueError, match=r"`macs` to be in \(0, 1\), but got 60"):
        fit_keep_ratio(model, 60, lambda: model(x))
    dense = FPN(in_channels=[8], out_channels=8, num_outs=1)
    with pytest.raises(ValueError, match="FPN has no dynamic part"):
        fit_keep_ratio(dense, 0.5, lambda: dense([torch.randn(1, 8, 4, 4)]))


@pytest.mark.parametrize("stop", [0, 4])
def test_a_search_that_fails_leaves_the_model_as_it_was(stop):
    """No share that can be reached (0), or an error of the so-manieth run."""
    model, x, runs = Network(keep_ratio=[0.7, 0.8, 0.7, 0.5, 0.3, 0.4]).eval(), torch.randn(1, 3, 64, 64), []
    before = get_keep_ratio(model)

    def run():
        runs.append(0)
        if len(runs) == stop:
            raise KeyError("in the model")
        model(x)

    with pytest.raises(KeyError if stop else ValueError):
        fit_keep_ratio(model, 0.8 if stop else 0.05, run)
    assert get_keep_ratio(model) == before
