"""The simple pyramid: strides, widths, and that every level comes from the last map."""

import pytest
import torch
import torch.nn.functional as F

from mmsparse.models import SimpleFeaturePyramid


def normed(x):
    """A new LayerNorm over channels."""
    return F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)


def test_levels():
    neck = SimpleFeaturePyramid(in_channels=[32, 32], out_channels=16, num_outs=5)
    last = torch.randn(2, 32, 6, 10)
    outs = neck([torch.full_like(last, torch.nan), last])
    assert [out.shape for out in outs] == [(2, 16, 6 * s // 4, 10 * s // 4) for s in (16, 8, 4, 2)] + [(2, 16, 2, 3)]
    twice = [F.conv_transpose2d(last, up.weight, up.bias, stride=2) for up in (neck.levels[0][0][0], neck.levels[1][0])]
    up = neck.levels[0][0][3]
    finest = F.conv_transpose2d(F.gelu(normed(twice[0])), up.weight, up.bias, stride=2)
    for level, out, scaled in zip(neck.levels, outs, (finest, twice[1], last, F.max_pool2d(last, 2)), strict=False):
        narrow = normed(F.conv2d(scaled, level[1].weight))
        torch.testing.assert_close(out, normed(F.conv2d(narrow, level[3].weight, padding=1)), rtol=1e-4, atol=1e-4)
    assert torch.equal(outs[4], outs[3][..., ::2, ::2])


def test_a_level_sees_its_own_neighbourhood():
    """The finest level is made of 2x2 upsampling, twice, and one 3x3: a location reaches 4x4 + 1 around."""
    neck = SimpleFeaturePyramid(in_channels=32, out_channels=16)
    with torch.no_grad():
        plain = neck([torch.zeros(1, 32, 5, 5)])[0]
        spot = torch.zeros(1, 32, 5, 5)
        spot[..., 2, 2] = 5.0
        changed = (neck([spot])[0] - plain).abs().sum(1)[0] > 1e-6
    ys, xs = changed.nonzero(as_tuple=True)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (7, 12, 7, 12)


def test_every_parameter_learns():
    neck = SimpleFeaturePyramid(in_channels=32, out_channels=16)
    sum((out * torch.randn_like(out)).sum() for out in neck([torch.randn(1, 32, 6, 6)])).backward()
    assert [name for name, p in neck.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(in_channels=30), "`in_channels` to be divisible by 4, but got 30"),
        (dict(in_channels=32, num_outs=3), "`num_outs` to be a whole number >= 4, but got 3"),
        (dict(in_channels=32, num_outs=5.0), "`num_outs` to be a whole number >= 4, but got 5.0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SimpleFeaturePyramid(**arguments)
