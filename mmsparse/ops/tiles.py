"""Square tiles of a map: how it is cut into them, put together again, and which of its rows they are.

A map (H, W) is cut into tiles of ``tile`` x ``tile`` locations, the last ones of a row or column reaching over the
border.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .of_thread import OfThread

T = TypeVar("T")


def tile_grid(size: tuple[int, int], tile: int) -> tuple[int, int]:
    """How many tiles cover a map, along its height and width."""
    return math.ceil(size[0] / tile), math.ceil(size[1] / tile)


def to_tiles(x: Tensor, tile: int) -> Tensor:
    """A map (B, C, H, W) as rows (B * tiles, tile * tile * C), filled up with zeros beyond its border."""
    high, wide = tile_grid(x.shape[-2:], tile)
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, wide * tile - x.shape[-1], 0, high * tile - x.shape[-2]))
    return x.reshape(len(x), high, tile, wide, tile, -1).transpose(2, 3).reshape(len(x) * high * wide, -1)


def tile_means(x: Tensor, tile: int, real: Tensor | None = None) -> Tensor:
    """The mean of each tile (B * tiles, C), over its locations on the map; where ``real`` (B, 1, H, W), if given."""
    if real is None:
        return map_rows(F.avg_pool2d(x, tile, ceil_mode=True))
    shares = F.avg_pool2d(real.to(x.dtype), tile, ceil_mode=True).clamp_min(0.5 / tile**2)  # of padding alone, zeros
    return map_rows(F.avg_pool2d(zero_beyond(x, real), tile, ceil_mode=True) / shares)


def zero_beyond(x: Tensor, real: Tensor) -> Tensor:
    """Maps with zeros where they are not ``real`` (B, 1, H, W).

    Chosen, not multiplied: OpenVINO 2026.4 crashes where a small group norm meets a map of booleans that is converted,
    or negated.
    """
    return torch.where(real, x, 0)


def from_tiles(tiles: Tensor, shape: torch.Size, tile: int) -> Tensor:
    """The map (B, D, H, W) of rows (B * tiles, tile * tile * D); ``shape`` is that of the map they came from."""
    return as_map(tile_rows(tiles, shape, tile), shape, tile)


def tiles_at(x: Tensor, idx: Tensor, tile: int) -> Tensor:
    """Chosen tiles of a map (R, tile * tile * C); beyond the border they hold anything."""
    return map_rows(x).index_select(0, window_of(size_of(x), idx, tile, 0)[0]).view(len(idx), tile**2 * x.shape[1])


def tile_rows(tiles: Tensor, shape: torch.Size, tile: int) -> Tensor:
    """The same as rows (B * height * width, D), those beyond the border included: see ``whole_grid``."""
    high, wide = tile_grid(shape[2:], tile)
    return tiles.view(shape[0], high, wide, tile, tile, -1).transpose(2, 3).flatten(0, 4)


def as_map(rows: Tensor, shape: torch.Size, tile: int) -> Tensor:
    """The map (B, D, H, W) of such rows."""
    x = rows.view(shape[0], *whole_grid(shape[2:], tile), -1)
    return x[:, : shape[2], : shape[3]].permute(0, 3, 1, 2)


def size_of(x: Tensor) -> tuple[int, int]:
    """Height and width of maps (B, C, H, W)."""
    return x.shape[-2], x.shape[-1]


def map_rows(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B * H * W, C): a view of a map in channels-last memory, else a copy that is quick to read."""
    return x.permute(0, 2, 3, 1).flatten(0, 2).contiguous()


def whole_grid(size: tuple[int, int], tile: int) -> tuple[int, int]:
    """The size of a map, were it enlarged to whole tiles."""
    high, wide = tile_grid(size, tile)
    return high * tile, wide * tile


def empty_rows(x: Tensor, tile: int, width: int) -> Tensor:
    """Of a map enlarged to whole tiles (B * height * width, D)."""
    high, wide = whole_grid(size_of(x), tile)
    return x.new_empty(x.shape[0] * high * wide, width)


def window(size: tuple[int, int], idx: Tensor, tile: int, halo: int) -> tuple[Tensor, Tensor]:
    """Where the locations of chosen tiles, each with a halo, are among the rows of maps of a size.

    Args:
        size: Height and width of the maps.
        idx: (R,) flat numbers of the tiles.
        tile: Locations along a side of a tile.
        halo: Locations around it.

    Returns:
        Row numbers (R * side * side), the nearest one for locations beyond the border, and which those are.
    """
    return places(size, idx, tile, range(-halo, tile + halo))


def places(size: tuple[int, int], idx: Tensor, tile: int, steps: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The same of locations at any steps, along both sides, from the first one of each chosen tile."""
    (height, width), (high, wide) = size, tile_grid(size, tile)
    image, place = idx // (high * wide), idx % (high * wide)
    step = torch.tensor(list(steps), device=idx.device)
    y = (place // wide * tile).unsqueeze(1) + step  # (R, side)
    x = (place % wide * tile).unsqueeze(1) + step
    outside = ((y < 0) | (y >= height)).unsqueeze(2) | ((x < 0) | (x >= width)).unsqueeze(1)
    row = image.unsqueeze(1) * height + y.clamp(0, height - 1)
    return (row.unsqueeze(2) * width + x.clamp(0, width - 1).unsqueeze(1)).flatten(), outside.flatten()


_KNOWN: OfThread[dict[tuple, tuple[Any, Any]] | None] = OfThread(None)


def remembered() -> AbstractContextManager[None]:
    """Inside a with-block, in this thread, what ``once_for`` makes for the same object is made once."""
    return _KNOWN.set({})


def once_for(owner: Any, key: tuple, make: Callable[[], T]) -> T:
    """What is made of a tensor, or by a module, that several layers may ask for; nobody changes it."""
    known = _KNOWN.value
    if known is None:
        return make()
    key = (id(owner), *key)
    if key not in known:
        known[key] = owner, make()  # as long as it is held, nothing else has its id
    return known[key][1]


def window_of(size: tuple[int, int], idx: Tensor, tile: int, halo: int) -> tuple[Tensor, Tensor]:
    """``window``, of tiles that several layers may ask for."""
    return once_for(idx, (size, tile, halo), lambda: window(size, idx, tile, halo))
