"""A whole map out of two convolutions: a large one at the chosen tiles, a 1x1 at all others."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .operator import Operator, cast_for_autocast
from .rows import Rows, put_together
from .sparse_conv import add_gradients, conv_tiles
from .tiles import as_map, empty_rows, map_rows, size_of, tile_rows, whole_grid, window, window_of


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
    return as_map(slow_fast_rows(x, slow, fast, tiles, tile, dilation, means), x.shape, tile)


def slow_fast_rows(
    x: Tensor,
    slow: tuple[Tensor, Tensor | None],
    fast: tuple[Tensor, Tensor | None],
    tiles: Rows,
    tile: int = 1,
    dilation: int = 1,
    means: Tensor | None = None,
) -> Tensor:
    """The same as rows (B * height * width, D) of a map that is enlarged to whole tiles: see ``whole_grid``."""
    x, *layers, means = cast_for_autocast(x, *slow, *fast, means)
    return _operator(x, *layers, means, *tiles, tile, dilation)


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


def _backward(
    grad: Tensor,
    needed: tuple[bool, ...],
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
) -> tuple[Tensor | None, ...]:
    """Of each path by its own rows; nothing of the forward is needed."""
    rows, size = map_rows(x), size_of(x)
    of_rows, of_weight = (torch.zeros_like(t) if need else None for t, need in ((rows, needed[0]), (weight, needed[1])))
    of_kept, of_rest = (
        grad.index_select(0, window_of(whole_grid(size, tile), part, tile, 0)[0]) for part in (keep, rest)
    )
    add_gradients(
        of_rows, of_weight, of_kept.view(len(keep), tile**2, len(weight)), rows, size, weight, keep, tile, dilation
    )
    if means is not None:
        of_rest, seen = of_rest.view(len(rest), tile**2, len(weight)).sum(dim=1), means
    else:
        source = window_of(size, rest, tile, 0)[0]  # what is beyond the border has no gradient
        seen = rows.index_select(0, source)
        if of_rows is not None:
            of_rows.index_add_(0, source, of_rest @ fast_weight)
    return (
        None if of_rows is None else of_rows.view(len(x), *size, x.shape[1]).permute(0, 3, 1, 2),
        of_weight,
        of_kept.sum(dim=0) if needed[2] else None,
        of_rest.t() @ seen if needed[3] else None,
        of_rest.sum(dim=0) if needed[4] else None,
        of_rest @ fast_weight if needed[5] else None,
        *[None] * 5,
    )


_operator = Operator("slow_fast_conv2d", _plain, _flops, _fake, _backward)
