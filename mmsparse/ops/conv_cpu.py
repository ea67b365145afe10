"""Whole maps on a processor: few tiles at a time, so that what is between stays in its caches."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .operator import OPERATORS
from .sparse_conv import conv_tiles, points_of, seen_of
from .tiles import empty_rows, map_rows, once_for, places, size_of, whole_grid, window, window_of

LARGE = 1 << 22  # numbers in the temporaries of a batch of tiles: 16 MB, which stays in the processor's caches


@OPERATORS["slow_fast_conv2d"].kernel("cpu", name="blocks")
def _slow_fast_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    fast_weight: Tensor,
    fast_bias: Tensor | None,
    means: Tensor | None,
    keep: Tensor,
    rest: Tensor,
    inverse: Tensor,
    tile: int,
    dilation: int,
) -> Tensor:
    rows, size, out = map_rows(x), size_of(x), empty_rows(x, tile, len(weight))
    grid = whole_grid(size, tile)
    area = len(seen_of(weight, tile, dilation).steps) ** 2
    large = max(4 * weight.numel(), LARGE // 4)  # each call packs the kernel anew
    for part in keep.split(max(1, large // (area * x.shape[1]))):
        kept = conv_tiles(rows, size, weight, bias, part, tile, dilation)
        out.index_copy_(0, window(grid, part, tile, 0)[0], kept.view(-1, len(weight)))
    fast_into(out, rows, size, fast_weight, fast_bias, means, rest, tile)
    return out


def _in_pieces(weight: Tensor, tile: int, dilation: int, **_: Any) -> bool:
    """Half precision multiplies so quickly that a convolution of small windows would cost what they take to arrange;
    and a kernel whose points lie far apart has no windows.
    """
    return weight.shape[-1] > 1 and (weight.element_size() == 2 or seen_of(weight, tile, dilation).stride > 1)


@OPERATORS["slow_fast_conv2d"].kernel("cpu", suits=_in_pieces, name="columns")
def _by_columns(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    fast_weight: Tensor,
    fast_bias: Tensor | None,
    means: Tensor | None,
    keep: Tensor,
    rest: Tensor,
    inverse: Tensor,
    tile: int,
    dilation: int,
) -> Tensor:
    """A matrix product: what the kernel sees of each location, side by side."""
    rows, size, out = map_rows(x), size_of(x), empty_rows(x, tile, len(weight))
    kernel = weight.permute(0, 2, 3, 1).flatten(1)  # (D, k * k * C)
    steps, k = points_of(weight, tile, dilation), int(weight.shape[-1])

    def seen() -> tuple[Tensor, ...]:
        return tuple(_by_location(numbers, tile, k) for numbers in places(size, keep, tile, steps))

    where, outside = once_for(keep, (size, tile, steps, "by location"), seen)
    target = window_of(whole_grid(size, tile), keep, tile, 0)[0]
    count = max(1, max(2 * weight.numel(), LARGE // 4) // kernel.shape[1])  # each call packs the kernel anew
    memory = rows.new_empty(min(count, len(target)), kernel.shape[1])
    for start in range(0, len(target), count):
        part = slice(start, start + count)
        columns = memory[: len(target[part])]
        torch.index_select(rows, 0, where[part].flatten(), out=columns.view(-1, x.shape[1]))
        columns.view(-1, x.shape[1]).index_fill_(0, outside[part].flatten().nonzero().squeeze(1), 0)
        out.index_copy_(0, target[part], F.linear(columns, kernel, bias))
    fast_into(out, rows, size, fast_weight, fast_bias, means, rest, tile)
    return out


def _by_location(seen: Tensor, tile: int, points: int) -> Tensor:
    """(tiles * tile * points * tile * points), of each location's along both sides, to (locations, points * points)."""
    return seen.view(-1, tile, points, tile, points).transpose(2, 3).reshape(-1, points**2)


def fast_into(
    out: Tensor,
    rows: Tensor,
    size: tuple[int, int],
    weight: Tensor,
    bias: Tensor | None,
    means: Tensor | None,
    rest: Tensor,
    tile: int,
) -> None:
    """The 1x1 convolution's results of rows (B * H * W, C) of maps of a size, or of the tiles' means, each to its place
    in whole tiles.
    """
    count = max(1, LARGE // sum(weight.shape))
    target = window_of(whole_grid(size, tile), rest, tile, 0)[0]
    if means is not None:
        of_tiles = F.linear(means, weight, bias)
        for some, where in zip(of_tiles.split(count), target.split(count * tile**2), strict=True):
            out.index_copy_(0, where, some.repeat_interleave(tile**2, dim=0))
        return
    source = window_of(size, rest, tile, 0)[0]
    for part, where in zip(source.split(count), target.split(count), strict=True):
        out.index_copy_(0, where, F.linear(rows.index_select(0, part), weight, bias))
