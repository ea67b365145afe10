"""A whole map out of two convolutions: a large one at the chosen tiles, a 1x1 at all others."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from . import winograd
from .sparse_conv import conv_tiles, kernels_for, reach
from .tiles import map_rows, tile_grid, window


def slow_fast_conv2d(
    x: Tensor,
    slow: tuple[Tensor, Tensor | None],
    fast: tuple[Tensor, Tensor | None],
    keep_idx: Tensor,
    rest_idx: Tensor,
    tile: int = 1,
    dilation: int = 1,
) -> Tensor:
    """A whole map: of the tiles ``keep_idx`` by ``sparse_conv2d``, of the others by a 1x1 convolution.

    For evaluation. What compilers and counters see is one operator, ``mmsparse::slow_fast_conv2d``; what a tracer
    sees, and what has gradients, is plain PyTorch.

    Args:
        x: (B, C, H, W).
        slow: Weight (D, C, k, k) and bias of the convolution.
        fast: Weight (D, C) and bias of the 1x1 convolution.
        keep_idx: Flat numbers of the slow tiles.
        rest_idx: All others.
        tile: Locations along a side of a tile.
        dilation: Of the kernel.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, slow, fast = x.to(dtype), _cast(slow, dtype), _cast(fast, dtype)
    tensors = (x, *slow, *fast)
    learning = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    run = _plain if learning or torch.jit.is_tracing() else torch.ops.mmsparse.slow_fast_conv2d
    return run(*tensors, keep_idx, rest_idx, tile, dilation)


def _cast(layer: tuple[Tensor, Tensor | None], dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return layer[0].to(dtype), None if layer[1] is None else layer[1].to(dtype)


def _plain(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    fast_weight: Tensor,
    fast_bias: Tensor | None,
    keep_idx: Tensor,
    rest_idx: Tensor,
    tile: int,
    dilation: int,
) -> Tensor:
    rows, size, grid = map_rows(x), _size(x), _whole_grid(x, tile)
    out = x.new_empty(len(x) * grid[0] * grid[1], len(weight))
    kept = conv_tiles(rows, size, weight, bias, keep_idx, tile, dilation).view(-1, len(weight))
    rest = rows.index_select(0, window(size, rest_idx, tile, 0)[0])
    out = out.index_copy(0, window(grid, keep_idx, tile, 0)[0], kept)
    out = out.index_copy(0, window(grid, rest_idx, tile, 0)[0], F.linear(rest, fast_weight, fast_bias))
    return _as_map(out, x, grid)


@torch.library.custom_op("mmsparse::slow_fast_conv2d", mutates_args=())
def _slow_fast_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    fast_weight: Tensor,
    fast_bias: Tensor | None,
    keep_idx: Tensor,
    rest_idx: Tensor,
    tile: int,
    dilation: int,
) -> Tensor:
    """Few tiles at a time, so that what is between stays in the processor's caches; on a GPU nothing is between."""
    rows, size, grid = map_rows(x), _size(x), _whole_grid(x, tile)
    out = x.new_empty(len(x) * grid[0] * grid[1], len(weight))
    if kernels := kernels_for(x):
        kernels.conv_into(out, rows, size, weight, bias, keep_idx, tile, dilation, to_map=True)
        one_by_one = fast_weight[:, :, None, None]
        kernels.conv_into(out, rows, size, one_by_one, fast_bias, rest_idx, tile, 1, to_map=True)
        return _as_map(out, x, grid)
    wide, channels = weight.shape[:2]
    if winograd.suits(rows, weight, tile, dilation, groups=1):
        where = window(grid, keep_idx, tile, 0)[0].view(-1, tile**2).t()
        for part, kept in winograd.conv_tiles(rows, size, weight, bias, keep_idx):
            out.index_copy_(0, where[:, part].reshape(-1), kept.view(-1, wide))
    else:
        area = (tile + 2 * reach(weight, dilation)) ** 2
        large = max(4 * weight.numel(), winograd.LARGE // 4)  # each call packs the kernel anew
        count = max(1, large // (area * channels))
        for part in keep_idx.split(count):
            kept = conv_tiles(rows, size, weight, bias, part, tile, dilation)
            out.index_copy_(0, window(grid, part, tile, 0)[0], kept.view(-1, wide))
    source, target = window(size, rest_idx, tile, 0)[0], window(grid, rest_idx, tile, 0)[0]
    count = max(1, winograd.LARGE // (channels + wide))
    for part, where in zip(source.split(count), target.split(count), strict=True):
        out.index_copy_(0, where, F.linear(rows.index_select(0, part), fast_weight, fast_bias))
    return _as_map(out, x, grid)


@_slow_fast_conv2d.register_fake
def _shape(x: Tensor, weight: Tensor, *args: Any) -> Tensor:
    grid = _whole_grid(x, args[-2])
    return _as_map(x.new_empty(len(x) * grid[0] * grid[1], len(weight)), x, grid)


@register_flop_formula(torch.ops.mmsparse.slow_fast_conv2d)
def _flops(
    x: Any, weight: Any, bias: Any, fast: Any, fast_bias: Any, keep: Any, rest: Any, tile: int, *_: Any, **__: Any
) -> int:
    """Those of the two convolutions, as they are counted everywhere: however few multiplications a kernel needs."""
    return 2 * tile**2 * (keep[0] * weight.numel() + rest[0] * fast.numel())


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[-2], x.shape[-1]


def _whole_grid(x: Tensor, tile: int) -> tuple[int, int]:
    """The size of the map if its last tiles did not reach over the border."""
    high, wide = tile_grid(_size(x), tile)
    return high * tile, wide * tile


def _as_map(rows: Tensor, x: Tensor, grid: tuple[int, int]) -> Tensor:
    return rows.view(len(x), *grid, rows.shape[1])[:, : x.shape[-2], : x.shape[-1]].permute(0, 3, 1, 2)
