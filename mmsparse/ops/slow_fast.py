"""A whole map out of two convolutions: a large one at the chosen tiles, a 1x1 at all others."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .operator import Operator, cast_for_autocast
from .rows import Rows, put_together
from .sparse_conv import conv_tiles
from .tiles import as_map, empty_rows, map_rows, size_of, tile_rows, window


def slow_fast_conv2d(
    x: Tensor,
    slow: tuple[Tensor, Tensor | None],
    fast: tuple[Tensor, Tensor | None],
    tiles: Rows,
    tile: int = 1,
    dilation: int = 1,
    means: Tensor | None = None,
) -> Tensor:
    """A whole map (B, D, H, W): of the tiles ``tiles.keep`` by a convolution, of the others by a 1x1 convolution.

    Args:
        x: (B, C, H, W).
        slow: Weight (D, C, k, k) and bias of the convolution; it is padded by dilation * (k - 1) / 2.
        fast: Weight (D, C) and bias of the 1x1 convolution.
        tiles: Flat numbers of the slow tiles, and of all others.
        tile: Locations along a side of a tile.
        dilation: Of the kernel.
        means: Of the other tiles (R, C), if the 1x1 convolution sees these, each once for all locations of its tile.
    """
    x, *layers, means = cast_for_autocast(x, *slow, *fast, means)
    rows = _operator(x, *layers, means, *tiles, tile, dilation)
    return as_map(rows, x.shape, tile)


def _plain(
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
    # rows (B * height * width, D) of the map, enlarged to whole tiles: a view of them is torch's to follow
    rows, size = map_rows(x), size_of(x)
    kept = conv_tiles(rows, size, weight, bias, keep, tile, dilation)
    seen = rows.index_select(0, window(size, rest, tile, 0)[0]) if means is None else means
    others = F.linear(seen, fast_weight, fast_bias)
    others = others.view(-1, tile**2 * weight.shape[0]) if means is None else others.repeat(1, tile**2)
    return tile_rows(put_together(kept, others, inverse), x.shape, tile)


def _flops(weight: Any, fast_weight: Any, means: Any, keep: Any, rest: Any, tile: int, **_: Any) -> int:
    """Those of the two convolutions, as they are counted everywhere: however few multiplications a kernel needs."""
    others = tile**2 * rest[0] if means is None else rest[0]
    return 2 * (tile**2 * keep[0] * weight.numel() + others * fast_weight.numel())


def _fake(x: Tensor, weight: Tensor, tile: int, **_: Any) -> Tensor:
    return empty_rows(x, tile, weight.shape[0])


_operator = Operator("slow_fast_conv2d", _plain, _flops, _fake)
