"""A convolution evaluated at chosen tiles of a map only.

The chosen tiles are read with their halo and go through the dense kernel as a batch, so nothing is multiplied that
nobody asked for.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .operator import Operator, cast_for_autocast
from .tiles import map_rows, places, size_of, to_tiles


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
    rows, weight, bias = cast_for_autocast(map_rows(x), weight, bias)
    return _operator(rows, *size_of(x), weight, bias, idx, tile, dilation, groups)


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
    steps, stride, apart = seen_of(weight, tile, dilation)
    where, outside = places(size, idx, tile, steps)
    patches = _patches(rows, where, outside, len(steps))
    if len(steps) == weight.shape[-1] and groups == 1:  # one location each: a matrix product
        kernel = weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(patches.permute(0, 2, 3, 1).reshape(-1, kernel.shape[1]), kernel, bias)
    out = F.conv2d(patches, weight, bias, stride, 0, apart, groups)  # (R, D, tile, tile)
    return out.permute(0, 2, 3, 1).flatten(1)


def _patches(rows: Tensor, where: Tensor, outside: Tensor, side: int) -> Tensor:
    """Tiles with their halo (R, C, side, side), in channels-last memory."""
    patches = rows.index_select(0, where).masked_fill_(outside.unsqueeze(1), 0)
    return patches.view(-1, side, side, rows.shape[1]).permute(0, 3, 1, 2)


def reach(weight: Tensor, dilation: int) -> int:
    """How far beyond a location the kernel looks."""
    return dilation * (int(weight.shape[-1]) // 2)


class Seen(NamedTuple):
    """What a kernel sees of a tile along a side, and how it goes over that."""

    steps: tuple[int, ...]  # from the tile's first location
    stride: int
    dilation: int


def seen_of(weight: Tensor, tile: int, dilation: int) -> Seen:
    """A tile with its halo; or, where the kernel's points lie so far apart that this is no more, those of each location
    one after the other.
    """
    kernel, halo = int(weight.shape[-1]), reach(weight, dilation)
    if tile + 2 * halo < tile * kernel:
        return Seen(tuple(range(-halo, tile + halo)), 1, dilation)
    return Seen(points_of(weight, tile, dilation), kernel, 1)


def points_of(weight: Tensor, tile: int, dilation: int) -> tuple[int, ...]:
    """What each location along a side of a tile sees, one after the other, in steps from the first location."""
    halo = reach(weight, dilation)
    return tuple(location + point for location in range(tile) for point in range(-halo, halo + 1, dilation))


def _plain(
    rows: Tensor,
    height: int,
    width: int,
    weight: Tensor,
    bias: Tensor | None,
    idx: Tensor,
    tile: int,
    dilation: int,
    groups: int,
) -> Tensor:
    return conv_tiles(rows, (height, width), weight, bias, idx, tile, dilation, groups)


def _flops(weight: Any, idx: Any, tile: int, **_: Any) -> int:
    return 2 * tile**2 * idx[0] * weight.numel()


# Each does what ``add_gradients`` says, and suits or not; the last that suits runs.
GRADIENTS: list[tuple[Callable[..., bool], Callable[..., None]]] = []


def add_gradients(
    of_rows: Tensor | None,
    of_weight: Tensor | None,
    grad: Tensor,
    rows: Tensor,
    size: tuple[int, int],
    weight: Tensor,
    idx: Tensor,
    tile: int,
    dilation: int = 1,
    groups: int = 1,
) -> None:
    """Add the gradients of a convolution at chosen tiles; nothing of its forward is needed.

    Args:
        of_rows: Where that of the map goes, (B * H * W, C), if it is wanted.
        of_weight: Where that of the weight goes, if it is wanted.
        grad: Of the results, (R, tile * tile, D).
        rows: Of the map.
        size: Height and width of the maps.
        weight: As in ``conv_tiles``, as are the others.
    """
    for suits, run in reversed(GRADIENTS):
        if suits(device=rows.device.type, weight=weight, tile=tile, dilation=dilation, groups=groups):
            return run(of_rows, of_weight, grad, rows, size, weight, idx)
    steps, stride, apart = seen_of(weight, tile, dilation)
    how = dict(stride=stride, dilation=apart, groups=groups)
    where, outside = places(size, idx, tile, steps)
    patches = _patches(rows, where, outside, len(steps))
    grad = grad.view(len(idx), tile, tile, len(weight)).permute(0, 3, 1, 2)
    if of_rows is not None:
        back = torch.nn.grad.conv2d_input(patches.shape, weight, grad, **how)
        of_rows.index_add_(0, where, back.permute(0, 2, 3, 1).flatten(0, 2).masked_fill_(outside.unsqueeze(1), 0))
    if of_weight is not None:
        of_weight += torch.nn.grad.conv2d_weight(patches, weight.shape, grad, **how)
    return None


def _backward(
    grad: Tensor,
    needed: tuple[bool, ...],
    rows: Tensor,
    height: int,
    width: int,
    weight: Tensor,
    bias: Tensor | None,
    idx: Tensor,
    tile: int,
    dilation: int,
    groups: int,
) -> tuple[Tensor | None, ...]:
    of_rows, of_weight = (torch.zeros_like(t) if need else None for t, need in ((rows, needed[0]), (weight, needed[3])))
    grad = grad.reshape(len(idx), tile**2, len(weight))
    add_gradients(of_rows, of_weight, grad, rows, (height, width), weight, idx, tile, dilation, groups)
    of_bias = grad.sum(dim=(0, 1)) if needed[4] else None
    return of_rows, None, None, of_weight, of_bias, None, None, None, None


def _fake(rows: Tensor, weight: Tensor, idx: Tensor, tile: int, **_: Any) -> Tensor:
    return rows.new_empty(idx.shape[0], tile**2 * weight.shape[0])


_operator = Operator("sparse_conv2d", _plain, _flops, _fake, _backward)
