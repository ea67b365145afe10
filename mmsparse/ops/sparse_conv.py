"""A convolution evaluated at chosen tiles of a map only.

The chosen tiles are read with their halo and go through the dense kernel as a batch, so nothing is multiplied that
nobody asked for.
"""

from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import winograd
from .tiles import map_rows, to_tiles, window

HAS_TRITON = find_spec("triton") is not None


def sparse_conv2d_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, idx: Tensor, tile: int = 1, dilation: int = 1, groups: int = 1
) -> Tensor:
    """What ``sparse_conv2d`` gives: the dense convolution, cut and chosen from; zero beyond the border."""
    dense = F.conv2d(x, weight, bias, padding=reach(weight, dilation), dilation=dilation, groups=groups)
    return to_tiles(dense, tile).index_select(0, idx)


def sparse_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, idx: Tensor, tile: int = 1, dilation: int = 1, groups: int = 1
) -> Tensor:
    """The outputs of a convolution of stride 1 that keeps the size of its map, at the chosen tiles.

    What it keeps for its gradients is the map, as the dense convolution does; tiles are cut again in the backward.
    What compilers and counters see of its forward is one operator, ``mmsparse::sparse_conv2d``; what a tracer sees, and
    grouped channels, are plain PyTorch.

    Args:
        x: (B, C, H, W).
        weight: (D, C / groups, k, k), k odd; padded by dilation * (k - 1) / 2.
        bias: (D,) or None.
        idx: Flat numbers of the chosen tiles into (B * tiles high * tiles wide).
        tile: Locations along a side of a tile.
        dilation: Of the kernel.
        groups: Of the channels.

    Returns:
        (R, tile * tile * D), for each chosen tile its locations row by row. Beyond the border of the map it holds what
        the convolution gives there.
    """
    rows, size = map_rows(x), (x.shape[-2], x.shape[-1])
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        rows, weight, bias = rows.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if torch.jit.is_tracing() or not torch.is_grad_enabled():
        return _forward(rows, size, weight, bias, idx, tile, dilation, groups)
    return _SparseConv2d.apply(rows, weight, bias, idx, size, tile, dilation, groups)


class _SparseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        idx: Tensor,
        size: tuple[int, int],
        tile: int,
        dilation: int,
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(rows, weight, idx)
        ctx.how = (size, tile, dilation, groups)
        return _forward(rows, size, weight, bias, idx, tile, dilation, groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, idx = ctx.saved_tensors
        size, tile, dilation, groups = ctx.how
        where, outside = window(size, idx, tile, reach(weight, dilation))
        patches = _patches(rows, where, outside, tile + 2 * reach(weight, dilation))
        grad = grad.view(len(idx), tile, tile, len(weight)).permute(0, 3, 1, 2)
        grads: list[Tensor | None] = [None, None, None]
        if ctx.needs_input_grad[0]:
            back = torch.nn.grad.conv2d_input(patches.shape, weight, grad, dilation=dilation, groups=groups)
            back = back.permute(0, 2, 3, 1).flatten(0, 2).masked_fill_(outside.unsqueeze(1), 0)
            grads[0] = torch.zeros_like(rows).index_add_(0, where, back)
        if ctx.needs_input_grad[1]:
            grads[1] = torch.nn.grad.conv2d_weight(patches, weight.shape, grad, dilation=dilation, groups=groups)
        if ctx.needs_input_grad[2]:
            grads[2] = grad.sum(dim=(0, 2, 3))
        return *grads, None, None, None, None, None


def _forward(
    rows: Tensor,
    size: tuple[int, int],
    weight: Tensor,
    bias: Tensor | None,
    idx: Tensor,
    tile: int,
    dilation: int,
    groups: int,
) -> Tensor:
    if torch.jit.is_tracing() or groups > 1:
        return conv_tiles(rows, size, weight, bias, idx, tile, dilation, groups)
    return torch.ops.mmsparse.sparse_conv2d(rows, *size, weight, bias, idx, tile, dilation)


@torch.library.custom_op("mmsparse::sparse_conv2d", mutates_args=())
def _sparse_conv2d(
    rows: Tensor,
    height: int,
    width: int,
    weight: Tensor,
    bias: Tensor | None,
    idx: Tensor,
    tile: int,
    dilation: int,
) -> Tensor:
    """The same as ``conv_tiles``, by the fastest way there is."""
    size = (height, width)
    if kernels := kernels_for(rows):
        out = rows.new_empty(len(idx), tile**2 * len(weight))
        kernels.conv_into(out, rows, size, weight, bias, idx, tile, dilation, to_map=False)
        return out
    if not winograd.suits(rows, weight, tile, dilation, groups=1):
        return conv_tiles(rows, size, weight, bias, idx, tile, dilation)
    out = rows.new_empty(len(idx), tile**2, len(weight))
    for part, values in winograd.conv_tiles(rows, size, weight, bias, idx):
        out[part] = values.transpose(0, 1)
    return out.flatten(1)


@_sparse_conv2d.register_fake
def _shape(rows: Tensor, height: int, width: int, weight: Tensor, bias: Any, idx: Tensor, tile: int, _: int) -> Tensor:
    return rows.new_empty(idx.shape[0], tile * tile * weight.shape[0])


@register_flop_formula(torch.ops.mmsparse.sparse_conv2d)
def _flops(rows: Any, height: int, width: int, weight: Any, bias: Any, idx: Any, tile: int, *_: Any, **__: Any) -> int:
    return 2 * tile**2 * idx[0] * weight.numel()


def kernels_for(rows: Tensor) -> ModuleType | None:
    """The kernels for GPUs where they can run; plain operators serve float64, older GPUs and those without Triton."""
    if not (HAS_TRITON and rows.is_cuda and rows.dtype in (torch.float32, torch.float16, torch.bfloat16)):
        return None
    if torch.cuda.get_device_properties(rows.device).major < 8:
        return None
    from . import sparse_conv_triton  # not before there is a GPU

    return sparse_conv_triton


def conv_tiles(
    rows: Tensor,
    size: tuple[int, int],
    weight: Tensor,
    bias: Tensor | None,
    idx: Tensor,
    tile: int,
    dilation: int,
    groups: int = 1,
) -> Tensor:
    """From the rows (B * H * W, C) of maps of a size to (R, tile * tile * D), in plain operators."""
    where, outside = window(size, idx, tile, reach(weight, dilation))
    patches = _patches(rows, where, outside, tile + 2 * reach(weight, dilation))
    if tile == 1 and groups == 1 and dilation == 1:  # one location each: a matrix product
        kernel = weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(patches.permute(0, 2, 3, 1).reshape(-1, kernel.shape[1]), kernel, bias)
    out = F.conv2d(patches, weight, bias, dilation=dilation, groups=groups)  # (R, D, tile, tile)
    return out.permute(0, 2, 3, 1).flatten(1)


def _patches(rows: Tensor, where: Tensor, outside: Tensor, side: int) -> Tensor:
    """Tiles with their halo (R, C, side, side), in channels-last memory."""
    patches = rows.index_select(0, where).masked_fill_(outside.unsqueeze(1), 0)
    return patches.view(len(where) // side**2, side, side, rows.shape[1]).permute(0, 3, 1, 2)


def reach(weight: Tensor, dilation: int) -> int:
    """How far beyond a location the kernel looks."""
    return dilation * (weight.shape[-1] // 2)
