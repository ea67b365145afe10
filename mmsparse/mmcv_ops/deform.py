"""Deformable convolutions v1 and v2 by torchvision's, of which they are two cases: without and with a mask."""

from typing import NamedTuple

import torch
import torchvision  # noqa: F401  registers its operators
from torch import Tensor

from mmsparse.mmcv_ops.precision import wide


class Geometry(NamedTuple):
    """In the order of torchvision's arguments."""

    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    groups: int
    offset_groups: int


def _first(how: dict[str, int]) -> Geometry:
    names = ("dH", "dW", "padH", "padW", "dilationH", "dilationW", "group", "deformable_group")
    return Geometry(*(how[name] for name in names))


def _second(how: dict[str, int]) -> Geometry:
    names = ("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w", "group", "deformable_group")
    return Geometry(*(how[name] for name in names))


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **how: int
) -> None:
    output.copy_(_convolve(input, weight, offset, None, None, _first(how)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **how: int,
) -> None:
    grads = _gradients(grad_output, input, weight, offset, None, _first(how))
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **how: int,
) -> None:
    # the weight itself, which is not at hand, has no part in its gradient
    grads = _gradients(grad_output, input, grad_weight, offset, None, _first(how))
    grad_weight.copy_(grads[1] * scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **how: int,
) -> None:
    output.copy_(_convolve(input, weight, offset, mask, bias if with_bias else None, _second(how)))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **how: int,
) -> None:
    grads = _gradients(grad_output, input, weight, offset, mask, _second(how))
    targets = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias)
    for target, grad in zip(targets, grads if with_bias else grads[:4]):
        target.copy_(grad)


def _convolve(
    input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    modulated = mask is not None
    mask = mask if modulated else input.new_zeros(len(input), 1)
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    # a sample at NaN, of a network that overflows: nothing to mmcv, but torchvision would read memory that is not there
    offset = offset.nan_to_num(-torch.inf, torch.inf, -torch.inf)
    return torch.ops.torchvision.deform_conv2d(*wide(input, weight, offset, mask, bias), *geometry, modulated)


def _gradients(
    grad: Tensor, input: Tensor, weight: Tensor, offset: Tensor, mask: Tensor | None, geometry: Geometry
) -> list[Tensor]:
    """Of input, weight, offset, mask and bias."""
    modulated = mask is not None
    mask = mask if modulated else input.new_zeros(len(input), 1)
    tensors = wide(grad, input, weight, offset, mask, weight.new_zeros(len(weight)))
    grads = list(torch.ops.torchvision._deform_conv2d_backward(*tensors, *geometry, modulated))
    grads[2] = grads[2].masked_fill(_outside(offset, input.shape[2:], weight.shape[2:], geometry), 0)
    return grads


def _outside(offset: Tensor, size: tuple[int, int], kernel: tuple[int, int], geometry: Geometry) -> Tensor:
    """Where an offset has no gradient, because its sample lies outside the map; (B, groups * taps * 2, H, W).

    torchvision lets a sample that lies exactly one pixel outside, such as all of a padded border's where offsets are
    still zero, feel the pixel inside; mmcv does not.
    """
    steps = []
    for dim in (0, 1):
        taps = torch.arange(kernel[dim], device=offset.device) * geometry[4 + dim]
        places = torch.arange(offset.shape[2 + dim], device=offset.device) * geometry[dim] - geometry[2 + dim]
        steps.append((taps, places))
    (tap_rows, rows), (tap_columns, columns) = steps
    y = (tap_rows.repeat_interleave(kernel[1])[:, None] + rows)[:, :, None]  # (taps, H, 1)
    x = (tap_columns.repeat(kernel[0])[:, None] + columns)[:, None, :]  # (taps, 1, W)
    moves = offset.unflatten(1, (-1, len(y), 2))  # (B, groups, taps, 2, H, W)
    y, x = y + moves[:, :, :, 0], x + moves[:, :, :, 1]
    outside = (y <= -1) | (y >= size[0]) | (x <= -1) | (x >= size[1])
    return outside[:, :, :, None].expand_as(moves).flatten(1, 3)
