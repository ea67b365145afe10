"""What exporters see of the convolutions: tables of numbers and gathers.

Sizes are fixed there, so where every tile's window lies is a constant, and a decision only picks its rows. Results are
never moved from one layout to another: one gather reads them at their places. A margin of zeros lies around a map.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import winograd
from .of_thread import OfThread
from .operator import EXPORT, OPERATORS
from .rows import Rows
from .sparse_conv import Seen, seen_of
from .tiles import as_map, map_rows, tile_grid, whole_grid


@cache
def _windows(batch: int, size: tuple[int, int], tile: int, steps: Sequence[int], margin: int) -> np.ndarray:
    """Rows, of maps of a size with a margin around whole tiles, that are seen of each tile, (side * side, tiles).

    Args:
        batch: Number of maps.
        size: Height and width of the maps.
        tile: Locations along a side of a tile.
        steps: What is seen of a tile along a side, from its first location.
        margin: Locations around whole tiles; what is beyond it is the row behind all others.
    """
    (high, wide), (height, width) = tile_grid(size, tile), _framed(size, tile, margin)
    step = np.array(steps) + margin
    y = (np.arange(high)[:, None] * tile + step).T[:, None, None, :, None]  # (side, 1, 1, high, 1)
    x = (np.arange(wide)[:, None] * tile + step).T[None, :, None, None, :]
    if len(steps) == tile:  # beyond the border nobody reads on: the nearest there
        y, x = y.clip(max=margin + size[0] - 1), x.clip(max=margin + size[1] - 1)
    row = np.arange(batch)[:, None, None] * height * width + y * width + x
    row = np.where((y >= 0) & (y < height) & (x >= 0) & (x < width), row, batch * height * width)
    return row.reshape(len(step) ** 2, -1).astype(np.int32)


@cache
def _columns(batch: int, size: tuple[int, int], tile: int, seen: Seen, kernel: int, margin: int) -> np.ndarray:
    """The same by what each column of a tile sees in each row, (rows * tile, tiles, kernel)."""
    side = len(seen.steps)
    columns = seen.stride * np.arange(tile)[:, None] + seen.dilation * np.arange(kernel)  # (tile, kernel)
    at = (np.arange(side)[:, None, None] * side + columns).reshape(side * tile, kernel)
    return np.ascontiguousarray(_windows(batch, size, tile, seen.steps, margin)[at].swapaxes(1, 2))


@cache
def _points(batch: int, size: tuple[int, int], tile: int, seen: Seen, kernel: int) -> np.ndarray:
    """The same by what each location of a tile sees, (tile * tile, tiles, kernel * kernel)."""
    windows = _windows(batch, size, tile, seen.steps, 0).reshape(tile, kernel, tile, kernel, -1)
    return np.ascontiguousarray(windows.transpose(0, 2, 4, 1, 3).reshape(tile**2, -1, kernel**2))


def _framed(size: tuple[int, int], tile: int, margin: int) -> tuple[int, int]:
    height, width = whole_grid(size, tile)
    return height + 2 * margin, width + 2 * margin


@cache
def _places(batch: int, size: tuple[int, int], tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each location of whole tiles: its tile's number, and its own in the tile."""
    height, width = whole_grid(size, tile)
    y, x = np.arange(height)[:, None], np.arange(width)
    number = y // tile * (width // tile) + x // tile
    tiles = np.arange(batch)[:, None, None] * (height * width // tile**2) + number
    inside = np.broadcast_to(y % tile * tile + x % tile, tiles.shape)
    return tiles.flatten().astype(np.int32), inside.flatten().astype(np.int32)


@cache
def _inside(batch: int, size: tuple[int, int], tile: int) -> np.ndarray:
    """Which locations of each tile lie on the map (tile * tile, tiles), as 1 and 0."""
    inside = np.zeros(whole_grid(size, tile), np.float32)
    inside[: size[0], : size[1]] = 1
    high, wide = tile_grid(size, tile)
    inside = inside.reshape(high, tile, wide, tile).transpose(1, 3, 0, 2).reshape(tile**2, -1)
    return np.tile(inside, (1, batch))


def _constant(table: np.ndarray, device: torch.device) -> Tensor:
    constant = torch.from_numpy(table)
    return constant if device.type == "cpu" else constant.to(device)  # which exporters would note


def _sizes(x: "Tensor | TileMap") -> tuple[int, tuple[int, int]]:
    """Batch, and height and width, as plain numbers while tracing too."""
    return int(x.shape[0]), (int(x.shape[-2]), int(x.shape[-1]))


@dataclass(frozen=True, eq=False)
class _Source:
    """Rows of maps with a margin of zeros around their whole tiles; ``where`` says which one each location is, if they
    do not lie in order. Where a kernel's points lie far apart there is no margin, but a row of zeros behind all.
    """

    rows: Tensor
    where: Tensor | None
    batch: int
    size: tuple[int, int]
    margin: int

    @classmethod
    def of(cls, x: "Tensor | TileMap", tile: int, seen: Seen) -> "_Source":
        batch, size = _sizes(x)
        apart = seen.stride > 1
        margin = 0 if apart else -min(seen.steps)
        if not isinstance(x, TileMap):  # padded first: runtimes then take it as it lies
            rows = _frame(x, tile, margin).permute(0, 2, 3, 1).flatten(0, 2)
            return cls(F.pad(rows, (0, 0, 0, 1)) if apart else rows, None, batch, size, margin)
        rows = torch.cat(list(x.parts))
        zero = int(rows.shape[0])
        where = F.pad(_frame(x.locations().view(batch, *size), tile, margin, zero).flatten(), (0, 1), value=zero)
        return cls(F.pad(rows, (0, 0, 0, 1)), where, batch, size, margin)

    def at(self, table: np.ndarray, idx: Tensor) -> Tensor:
        """The rows that a table (..., tiles, ...) names of chosen tiles, one after the other."""
        number = _constant(table, self.rows.device).index_select(1, idx).flatten()
        if self.where is not None:
            number = self.where.index_select(0, number)
        return self.rows.index_select(0, number)

    def windows(self, idx: Tensor, tile: int, steps: tuple[int, ...]) -> Tensor:
        """What is seen of chosen tiles (side * side, R, C)."""
        table = _windows(self.batch, self.size, tile, steps, self.margin)
        return self.at(table, idx).view(len(table), idx.shape[0], self.rows.shape[1])

    def columns(self, idx: Tensor, tile: int, seen: Seen, kernel: int) -> Tensor:
        """What each column of chosen tiles sees in each row (1, rows, tile * R, kernel * C)."""
        table = _columns(self.batch, self.size, tile, seen, kernel, self.margin)
        return self.at(table, idx).view(1, len(table) // tile, tile * idx.shape[0], kernel * self.rows.shape[1])

    def points(self, idx: Tensor, tile: int, seen: Seen, kernel: int) -> Tensor:
        """What each location of chosen tiles sees (tile * tile, R, kernel * kernel * C)."""
        table = _points(self.batch, self.size, tile, seen, kernel)
        return self.at(table, idx).view(tile**2, idx.shape[0], kernel**2 * self.rows.shape[1])


def _frame(x: Tensor, tile: int, margin: int, value: float = 0) -> Tensor:
    """Maps (..., H, W) enlarged to whole tiles, and by a margin around them."""
    height, width = int(x.shape[-2]), int(x.shape[-1])
    high, wide = whole_grid((height, width), tile)
    after = (margin, margin + wide - width, margin, margin + high - height)
    return F.pad(x, after, value=value) if any(after) else x


_INTEGERS: OfThread[bool] = OfThread(False)


def for_integers() -> AbstractContextManager[None]:
    """Inside a with-block, in this thread, convolutions of chosen tiles are one convolution along the columns of all,
    each with its neighbours beside it: so they are quickest, and most exact, where a runtime computes in integers.
    """
    return _INTEGERS.set(True)


def _conv(
    source: _Source, weight: Tensor, bias: Tensor | None, idx: Tensor, tile: int, dilation: int, groups: int
) -> Tensor:
    """The results at chosen tiles (tile * tile, R, D)."""
    seen = seen_of(weight, tile, dilation)
    if seen.stride > 1 and groups == 1:  # a matrix product
        points = source.points(idx, tile, seen, int(weight.shape[-1]))
        return F.linear(points, weight.permute(0, 2, 3, 1).flatten(1), bias)
    if _INTEGERS.value and groups == 1 and idx.shape[0]:
        columns = source.columns(idx, tile, seen, int(weight.shape[-1])).permute(0, 3, 1, 2)
        kernel = weight.permute(0, 3, 1, 2).flatten(1, 2).unsqueeze(3)  # (D, kernel * C, kernel, 1)
        out = F.conv2d(columns, kernel, bias, (seen.stride, 1), 0, (seen.dilation, 1))
        return out.permute(0, 2, 3, 1).view(tile**2, -1, len(weight))
    patches = source.windows(idx, tile, seen.steps)
    if winograd.suits(weight, tile, dilation, groups) and not torch.jit.is_tracing():  # counters trace
        return _winograd(patches, weight, bias)
    patches = patches.unflatten(0, (len(seen.steps),) * 2).permute(2, 3, 0, 1)
    out = F.conv2d(patches, weight, bias, seen.stride, 0, seen.dilation, groups)
    return out.permute(2, 3, 0, 1).flatten(0, 1)


def _winograd(patches: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(36, R, C) to (16, R, D), in three matrix products."""
    patch, _, result = (_constant(table, patches.device) for table in winograd.transforms())
    kernel = winograd.transform_kernel(weight).contiguous()  # a constant of the exported network
    transformed = (patch @ patches.flatten(1)).view_as(patches)
    mixed = torch.bmm(transformed, kernel)
    values = (result @ mixed.flatten(1)).view(len(result), patches.shape[1], len(weight))
    return values if bias is None else values + bias


class TileMap:
    """A map (B, D, H, W) whose rows lie as its tiles were decided: first all kept ones, and each by its location.

    Layers that look at one location alone leave them there, normalisation in groups does, the next convolution reads
    through ``where``, and whatever else is done with it sees the map.

    Args:
        parts: Rows (tile * tile * R, D) of the kept tiles and of the others.
        tiles: Which those are.
        where: Which row of both each location of whole tiles is.
        shape: Of the map.
        tile: Locations along a side of a tile.
        coarse: Whether each of the others is one row.
    """

    LOCAL = (F.relu, F.gelu, F.silu, F.hardswish, torch.relu, torch.sigmoid)

    def __init__(
        self, parts: Sequence[Tensor], tiles: Rows, where: Tensor, shape: torch.Size, tile: int, coarse: bool
    ) -> None:
        self.parts, self.tiles, self.where = parts, tiles, where
        self.shape, self.tile, self.coarse = shape, tile, coarse

    def dim(self) -> int:
        return 4

    def rows(self) -> Tensor:
        """The map's, in order, those of whole tiles."""
        return torch.cat(list(self.parts)).index_select(0, self.where)

    def whole(self) -> Tensor:
        return as_map(self.rows(), self.shape, self.tile)

    def locations(self) -> Tensor:
        """``where`` for those on the map."""
        return as_map(self.where, torch.Size((self.shape[0], 1, *self.shape[2:])), self.tile).flatten()

    def with_parts(self, parts: Sequence[Tensor]) -> "TileMap":
        return TileMap(parts, self.tiles, self.where, self.shape, self.tile, self.coarse)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        first, kwargs = args[0], kwargs or {}
        if func in cls.LOCAL or (func is F.batch_norm and not kwargs["training"]):
            return first.with_parts([func(part, *args[1:], **kwargs) for part in first.parts])
        if func is F.group_norm:
            return _group_norm(first, args[1], **kwargs)
        return func(*(arg.whole() if isinstance(arg, cls) else arg for arg in args), **kwargs)


def _group_norm(
    x: TileMap, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> TileMap:
    """Over each picture's locations on the map, in whatever order they lie.

    What is known of a group reaches its channels by sums over a table: runtimes would else compute it anew for every
    row that it is applied to. They are no matrix products, which counters would count.
    """
    batch, channels, (height, width) = x.shape[0], x.shape[1], x.shape[2:]
    parts, inside = x.parts, None
    if x.coarse or whole_grid((height, width), x.tile) != (height, width):
        table = _constant(_inside(batch, (height, width), x.tile), x.where.device)
        inside = [table.index_select(1, idx) for idx in (x.tiles.keep, x.tiles.rest)]
        inside = [inside[0].flatten(), inside[1].sum(0) if x.coarse else inside[1].flatten()]
    if batch == 1 and not x.coarse:  # a picture's rows are all of them: half as many steps
        parts, inside = [torch.cat(list(parts))], inside and [torch.cat(inside)]
    sides = x.tile**2, 1 if x.coarse else x.tile**2  # locations of a tile
    parts = [part.view(side, batch, -1, channels) for side, part in zip(sides, parts, strict=False)]
    on_map = [mask.view(*part.shape[:3], 1) for mask, part in zip(inside, parts, strict=True)] if inside else None

    def sums(values: Sequence[Tensor]) -> Tensor:
        """(B, D). In two steps, which are quicker than one."""
        if on_map is not None:
            values = [part * mask for part, mask in zip(values, on_map, strict=True)]
        return sum(part.sum(0).sum(1) for part in values)

    members = height * width * channels // num_groups
    of_group = torch.arange(channels, device=x.where.device) // (channels // num_groups)
    same = (of_group == of_group.unsqueeze(1)).to(parts[0].dtype)  # (D, D)
    centre = _told(sums(parts), same / members)
    variance = _told(sums([(part - centre).square() for part in parts]), same / members)
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    scaled = [(part - centre) * scale for part in parts]
    return x.with_parts([(part if bias is None else part + bias).flatten(0, 2) for part in scaled])


def _told(x: Tensor, table: Tensor) -> Tensor:
    """(B, D) times (D, D), as (B, 1, D)."""
    return (x.unsqueeze(2) * table).sum(1, keepdim=True)


def slow_fast(
    x: Tensor | TileMap,
    slow: tuple[Tensor, Tensor | None],
    fast: tuple[Tensor, Tensor | None],
    tiles: Rows,
    tile: int,
    dilation: int,
    means: Tensor | None,
) -> TileMap:
    """``slow_fast_conv2d``, of which nothing is put in its place yet."""
    (weight, bias), (keep, rest, inverse), (batch, size) = slow, tiles, _sizes(x)
    source = _Source.of(x, tile, seen_of(weight, tile, dilation))
    kept = _conv(source, weight, bias, keep, tile, dilation, 1)
    coarse = means is not None
    others = F.linear(means if coarse else source.windows(rest, tile, tuple(range(tile))).flatten(0, 1), *fast)
    count, other = keep.shape[0], rest.shape[0]
    number, inside = (_constant(table, kept.device) for table in _places(batch, size, tile))
    place = inverse.index_select(0, number)
    beyond = tile**2 * count + (0 if coarse else inside * other) + place - count
    where = torch.where(place < count, inside * count + place, beyond)
    return TileMap([kept.flatten(0, 1), others], tiles, where, torch.Size((batch, len(weight), *size)), tile, coarse)


def put_tiles(x: Tensor, values: Tensor, tiles: Rows, tile: int) -> Tensor:
    """A map (B, C, H, W) with other values (R, tile * tile * C) at the kept tiles: one gather of rows."""
    (batch, size), count = _sizes(x), int(tiles.keep.shape[0])
    number, inside = (_constant(_cropped(table, batch, size, tile), x.device) for table in _places(batch, size, tile))
    place = tiles.inverse.index_select(0, number)
    itself = tile**2 * count + torch.arange(number.shape[0], device=x.device)
    where = torch.where(place < count, place * tile**2 + inside, itself)
    rows = torch.cat([values.view(-1, x.shape[1]), map_rows(x)]).index_select(0, where)
    return rows.view(batch, *size, -1).permute(0, 3, 1, 2)


def _cropped(table: np.ndarray, batch: int, size: tuple[int, int], tile: int) -> np.ndarray:
    """What a table says of the locations on the map, of those of whole tiles."""
    return np.ascontiguousarray(table.reshape(batch, *whole_grid(size, tile))[:, : size[0], : size[1]]).flatten()


@OPERATORS["slow_fast_conv2d"].kernel(EXPORT, name="static")
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
    tiles = Rows(keep, rest, inverse)
    return slow_fast(x, (weight, bias), (fast_weight, fast_bias), tiles, tile, dilation, means).rows()


@OPERATORS["sparse_conv2d"].kernel(EXPORT, name="static")
def _sparse_conv2d(
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
    maps = rows.view(-1, height, width, rows.shape[1]).permute(0, 3, 1, 2)
    source = _Source.of(maps, tile, seen_of(weight, tile, dilation))
    return _conv(source, weight, bias, idx, tile, dilation, groups).transpose(0, 1).flatten(1)
