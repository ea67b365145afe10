"""Whole maps on a processor: few tiles at a time, so that what is between stays in its caches."""

import torch.nn.functional as F
from torch import Tensor

from .operator import OPERATORS
from .sparse_conv import conv_tiles, reach
from .tiles import as_map, map_rows, size_of, whole_grid, window

LARGE = 1 << 22  # numbers in the temporaries of a batch of tiles: 16 MB, which stays in the processor's caches


@OPERATORS["slow_fast_conv2d"].kernel("cpu", name="blocks")
def _slow_fast_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    fast_weight: Tensor,
    fast_bias: Tensor | None,
    keep: Tensor,
    rest: Tensor,
    inverse: Tensor,
    tile: int,
    dilation: int,
) -> Tensor:
    rows, grid = map_rows(x), whole_grid(x, tile)
    out = x.new_empty(len(x) * grid[0] * grid[1], len(weight))
    area = (tile + 2 * reach(weight, dilation)) ** 2
    large = max(4 * weight.numel(), LARGE // 4)  # each call packs the kernel anew
    for part in keep.split(max(1, large // (area * x.shape[1]))):
        kept = conv_tiles(rows, size_of(x), weight, bias, part, tile, dilation)
        out.index_copy_(0, window(grid, part, tile, 0)[0], kept.view(-1, len(weight)))
    fast_into(out, rows, x, fast_weight, fast_bias, rest, tile)
    return as_map(out, x, grid)


def fast_into(
    out: Tensor, rows: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, rest: Tensor, tile: int
) -> None:
    """The 1x1 convolution's results, each to its place in the whole tiles of a map."""
    source, target = (window(size, rest, tile, 0)[0] for size in (size_of(x), whole_grid(x, tile)))
    count = max(1, LARGE // sum(weight.shape))
    for part, where in zip(source.split(count), target.split(count), strict=True):
        out.index_copy_(0, where, F.linear(rows.index_select(0, part), weight, bias))
