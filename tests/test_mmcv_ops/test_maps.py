"""Regions, deformable and other convolutions through mmcv's functions, against plain loops that autograd derives."""

import pytest
import torch
from mmcv.ops import carafe, deform_conv2d, masked_conv2d, modulated_deform_conv2d, roi_align
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction, multi_scale_deformable_attn_pytorch
from torch import Tensor
from torch.nn import functional as F


def outputs_and_gradients(function, *inputs: Tensor) -> list[Tensor]:
    """What a function gives, and the gradients of a fixed sum of it."""
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    output = function(*inputs)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), inputs, allow_unused=True)]


def assert_same(function, plain, *inputs: Tensor) -> None:
    for ours, theirs in zip(outputs_and_gradients(function, *inputs), outputs_and_gradients(plain, *inputs)):
        torch.testing.assert_close(ours, theirs)
        assert ours.any()


def sample(channels: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Between the four pixels around (y, x), those outside being zero; (C,) of (C, H, W)."""
    height, width = channels.shape[1:]
    value = channels.new_zeros(len(channels))
    if not (-1 < y < height and -1 < x < width):
        return value
    top, left = int(y.floor()), int(x.floor())
    for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, right in ((left, 1 - (x - left)), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                value = value + channels[:, row, column] * down * right
    return value


def plain_roi_align(x: Tensor, rois: Tensor, size: tuple[int, int], scale: float, ratio: int, aligned: bool) -> Tensor:
    """The mean of samples on a grid in each bin; what lies up to one pixel outside is drawn to the border."""
    height, width = x.shape[2:]
    output = []
    for picture, *box in rois.tolist():
        x1, y1, x2, y2 = (side * scale - 0.5 * aligned for side in box)
        w, h = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        rows, columns = (ratio or -int(-side // bins) for side, bins in ((h, size[0]), (w, size[1])))
        for i in range(size[0] * size[1]):
            total = x.new_zeros(x.shape[1])
            for j in range(rows * columns):
                py = y1 + (i // size[1] + (j // columns + 0.5) / rows) * h / size[0]
                px = x1 + (i % size[1] + (j % columns + 0.5) / columns) * w / size[1]
                if -1 <= py <= height and -1 <= px <= width:
                    place = (x.new_tensor(min(max(p, 0), n - 1)) for p, n in ((py, height), (px, width)))
                    total = total + sample(x[int(picture)], *place)
            output.append(total / max(rows * columns, 1))
    return torch.stack(output).view(len(rois), *size, -1).permute(0, 3, 1, 2)


ROIS = [[1, 3, 2, 25, 30], [0, -9, -4, 12, 6], [0, 10, 10, 10.5, 11], [1, 20, 14, 60, 60]]


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(either, ratio, aligned):
    x, rois = torch.randn(2, 3, 8, 9, dtype=torch.float64), torch.tensor(ROIS, dtype=torch.float64)
    how = ((3, 2), 0.25, ratio)
    assert_same(
        lambda x: roi_align(x, rois, *how, "avg", aligned), lambda x: plain_roi_align(x, rois, *how, aligned), x
    )


def test_roi_align_of_views_of_nothing_and_in_half_precision(served):
    x, rois = torch.randn(2, 8, 9, 3).permute(0, 3, 1, 2), torch.tensor(ROIS)
    expected = roi_align(x.contiguous(), rois, (3, 2), 0.25, 2)
    torch.testing.assert_close(roi_align(x, rois.flip(1).flip(1), (3, 2), 0.25, 2), expected, rtol=0, atol=0)
    half = roi_align(x.bfloat16(), rois.bfloat16(), (3, 2), 0.25, 2)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.05)
    nothing, grad = outputs_and_gradients(lambda x: roi_align(x, rois[:0], (3, 2), 0.25, 2), x)
    assert nothing.shape == (0, 3, 3, 2) and grad.shape == x.shape and not grad.any()


GEOMETRIES = {  # stride, padding, dilation, groups, groups of offsets
    "plain": (1, 1, 1, 1, 1),
    "strided": ((2, 1), (1, 2), 1, 2, 1),
    "dilated": (1, (0, 1), (1, 2), 1, 2),
}


def plain_deform_conv(x, offset, mask, weight, bias, stride, padding, dilation, groups, offset_groups) -> Tensor:
    """Each tap of the kernel reads the map where its offset says."""
    (sh, sw), (ph, pw), (dh, dw) = (v if isinstance(v, tuple) else (v, v) for v in (stride, padding, dilation))
    kh, kw = weight.shape[2:]
    batch, _, height, width = offset.shape
    columns = []
    for place in range(batch * height * width):
        b, i, j = place // (height * width), place // width % height, place % width
        for g, channels in enumerate(x[b].chunk(offset_groups)):
            for tap in range(kh * kw):
                at = g * kh * kw + tap
                y = i * sh - ph + tap // kw * dh + offset[b, 2 * at, i, j]
                value = sample(channels, y, j * sw - pw + tap % kw * dw + offset[b, 2 * at + 1, i, j])
                columns.append(value if mask is None else value * mask[b, at, i, j])
    columns = torch.stack(columns).view(batch, height, width, offset_groups, kh, kw, -1)
    columns = columns.permute(0, 3, 6, 4, 5, 1, 2).reshape(batch, groups, -1, height * width)  # (B, G, C/G * taps, HW)
    output = weight.view(groups, len(weight) // groups, -1) @ columns
    output = output.view(batch, len(weight), height, width)
    return output if bias is None else output + bias[:, None, None]


def deform_inputs(geometry, offsets: str, modulated: bool) -> list[Tensor]:
    stride, padding, dilation, groups, offset_groups = geometry
    x, weight = torch.randn(2, 4, 4, 5, dtype=torch.float64), torch.randn(6, 4 // groups, 3, 3, dtype=torch.float64)
    size = F.conv2d(x, weight, None, stride, padding, dilation, groups).shape[2:]
    offset = torch.randn(2, offset_groups * 18, *size, dtype=torch.float64) * (0 if offsets == "zero" else 2)
    mask = torch.rand(2, offset_groups * 9, *size, dtype=torch.float64)
    return [x, offset, mask, weight, torch.randn(6, dtype=torch.float64)] if modulated else [x, offset, weight]


@pytest.mark.parametrize("offsets", ["zero", "random"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_deform_conv(either, name, offsets):
    """Offsets of zero are where training begins, and where samples lie exactly one pixel outside."""
    how = GEOMETRIES[name]
    assert_same(
        lambda x, offset, weight: deform_conv2d(x, offset, weight, *how),
        lambda x, offset, weight: plain_deform_conv(x, offset, None, weight, None, *how),
        *deform_inputs(how, offsets, modulated=False),
    )


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("offsets", ["zero", "random"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_modulated_deform_conv(either, name, offsets, biased):
    how = GEOMETRIES[name]
    x, offset, mask, weight, bias = deform_inputs(how, offsets, modulated=True)
    last = [bias] if biased else []
    assert_same(
        lambda *inputs: modulated_deform_conv2d(*inputs, *([] if biased else [None]), *how),
        lambda *inputs: plain_deform_conv(*inputs, *([] if biased else [None]), *how),
        *[x, offset, mask, weight, *last],
    )


def test_a_sample_at_nan_is_outside(either):
    x, offset, weight = deform_inputs(GEOMETRIES["plain"], "random", modulated=False)
    beyond = offset.clone()
    offset[:, :, 1, 2], beyond[:, :, 1, 2] = torch.nan, 1e3
    outputs = [deform_conv2d(x, moved, weight, 1, 1, 1, 1, 1) for moved in (offset, beyond)]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_deform_conv_without_offsets_is_a_convolution(either, step):
    x, weight, offset = torch.randn(4, 3, 6, 7), torch.randn(5, 3, 3, 3), torch.zeros(4, 18, 6, 7)
    output = deform_conv2d(x, offset, weight, 1, 1, 1, 1, 1, False, step)
    torch.testing.assert_close(output, F.conv2d(x, weight, padding=1), rtol=1e-4, atol=1e-5)


def test_masked_conv(served):
    x, weight, bias = torch.randn(1, 3, 6, 7), torch.randn(5, 3, 3, 3), torch.randn(5)
    mask = (torch.rand(1, 6, 7) > 0.5).float()
    expected = F.conv2d(x, weight, bias, padding=1) * mask
    torch.testing.assert_close(masked_conv2d(x, mask, weight, bias, 1), expected, rtol=1e-4, atol=1e-5)
    assert not masked_conv2d(x, mask * 0, weight, bias, 1).any()


def plain_carafe(x: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    batch, channels, height, width = x.shape
    x = F.pad(x, [kernel // 2] * 4)
    values = []
    for b in range(batch):
        for c in range(channels):
            for i in range(height * scale):
                for j in range(width * scale):
                    near = x[b, c, i // scale : i // scale + kernel, j // scale : j // scale + kernel]
                    of = c // (channels // groups) * kernel**2
                    values.append((near.flatten() * masks[b, of : of + kernel**2, i, j]).sum())
    return torch.stack(values).view(batch, channels, height * scale, width * scale)


def test_carafe(served):
    x, masks = torch.randn(2, 4, 3, 4, dtype=torch.float64), torch.rand(2, 2 * 9, 6, 8, dtype=torch.float64)
    assert_same(lambda x, masks: carafe(x, masks, 3, 2, 2), lambda x, masks: plain_carafe(x, masks, 3, 2, 2), x, masks)


def test_multi_scale_deformable_attention(served):
    shapes = torch.tensor([[4, 5], [2, 3]])
    value = torch.randn(2, 26, 2, 3, dtype=torch.float64)
    places, weights = torch.rand(2, 7, 2, 2, 4, 2, dtype=torch.float64), torch.rand(2, 7, 2, 2, 4, dtype=torch.float64)
    assert_same(
        lambda *inputs: MultiScaleDeformableAttnFunction.apply(
            inputs[0], shapes, torch.tensor([0, 20]), *inputs[1:], 64
        ),
        lambda *inputs: multi_scale_deformable_attn_pytorch(inputs[0], shapes, *inputs[1:]),
        *[value, places, weights],
    )
