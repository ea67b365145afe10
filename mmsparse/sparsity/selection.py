"""Which units of a map take the slow path: the only thing that travels between rooms."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsparse.ops import Rows, exporting, inverse_of, opaque, put_together, tile_grid

from .once import once

SHORT = 2048  # entries of a mask that are sorted in less time than they are searched


@dataclass(frozen=True)
class Geometry:
    """What a decision is about: the units of a map, each a location or a tile.

    Args:
        size: Height and width of the map.
        tile: Locations along a side of a unit; the last of a row or column may reach over the border.
        extra: Number of tokens in front of the map's, which are units, too.
        of_regions: Whether the map is one of a region of a picture, that nobody can find there.
    """

    size: tuple[int, int]
    tile: int = 1
    extra: int = 0
    of_regions: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """How many units the map has, along the height and the width."""
        return tile_grid(self.size, self.tile)

    @property
    def locations(self) -> "Geometry":
        """Of the same map, each location a unit."""
        return replace(self, tile=1, extra=0)

    @property
    def units(self) -> int:
        return self.extra + self.grid[0] * self.grid[1]


@dataclass(frozen=True, eq=False)
class Selection:
    """A decision for every unit of a batch of maps.

    Flat row numbers into (B * N) make batches, per-image budgets and every geometry the same code.

    Args:
        geometry: What the N units are.
        keep_mask: Boolean (B, N), True where the slow path is taken.
        gate: Straight-through (B, N) of the same values while training, None otherwise.
        count: Number of True entries of every image, or of each if they differ. Known beforehand, no device sync.
    """

    geometry: Geometry
    keep_mask: Tensor
    gate: Tensor | None = None
    count: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        mask, units = self.keep_mask, self.geometry.units
        if mask.dim() != 2 or mask.shape[1] != units or mask.dtype != torch.bool:
            raise ValueError(
                f"Expected argument `keep_mask` to be bool of shape (B, {units}) for {self.geometry}, "
                f"but got {mask.dtype} of shape {tuple(mask.shape)}"
            )

    @property
    def grid(self) -> tuple[int, int]:
        return self.geometry.grid

    @once
    def keep_idx(self) -> Tensor:
        """Flat row numbers of the slow units, ascending."""
        if self._at_once is not None:
            return self._at_once.keep
        return _true_positions(self.keep_mask.flatten(), self._total)

    @once
    def rest_idx(self) -> Tensor:
        """Flat row numbers of the fast units, ascending."""
        if self._at_once is not None:
            return self._at_once.rest
        total = None if self._total is None else self.keep_mask.numel() - self._total
        return _true_positions(~self.keep_mask.flatten(), total)

    @once
    def rows(self) -> Rows:
        """Both, and the permutation that puts their rows back, as the operators take them."""
        if self._at_once is not None:
            return self._at_once
        return Rows(self.keep_idx, self.rest_idx, inverse_of(self.keep_mask.flatten(), self.keep_idx.shape[0]))

    @once
    def _at_once(self) -> Rows | None:
        """All of it, where exporters or compilers look."""
        mask, total = self.keep_mask.flatten(), self._total
        if total is None or (not torch.compiler.is_compiling() and not exporting()):
            return None
        if not exporting():
            return Rows(*rows_of(mask, total))
        keep, rest = kept_first(mask).split([total, mask.shape[0] - total])
        return Rows(keep, rest, inverse_of(mask, total))

    @once
    def num_keep(self) -> list[int]:
        """Number of slow units of each image."""
        if self.count is None:
            return self.keep_mask.sum(dim=1).tolist()
        return list(self.count) if isinstance(self.count, tuple) else [self.count] * self.keep_mask.shape[0]

    @property
    def common_count(self) -> int | None:
        """Number of slow units of every image if it is the same one, known beforehand."""
        return None if isinstance(self.count, tuple) else self.count

    @property
    def _total(self) -> int | None:
        return sum(self.count) if isinstance(self.count, tuple) else self.count and self.count * len(self.keep_mask)

    def edges(self, picture: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Where the units begin on a picture of a height and width, along both, and where the last ones end.

        A map covers its picture; tiles stand at their stride, and what reaches over the border is cut off.
        """

        def along(axis: int) -> Tensor:
            length = self.geometry.size[axis]
            begins = torch.arange(self.grid[axis] + 1, device=self.keep_mask.device) * self.geometry.tile
            return begins.clamp(max=length) * picture[axis] / length  # exact where it is whole

        return along(0), along(1)

    def on_picture(self, picture: Sequence[int], index: int = 0) -> Tensor:
        """Which pixels of a picture lie in slow units, (height, width); ``index`` is its number in the batch."""
        pixels = [torch.arange(side, device=self.keep_mask.device) + 0.5 for side in picture]
        rows, columns = (
            torch.searchsorted(edges[1:-1], middle) for edges, middle in zip(self.edges(picture), pixels, strict=True)
        )
        return self.keep_mask[index, self.geometry.extra :].view(self.grid)[rows][:, columns]

    def with_extra(self, count: int) -> "Selection":
        """For tokens that follow so many extra ones (a class token), which are always slow."""
        if count == 0:
            return self
        ones = self.keep_mask.new_ones(len(self.keep_mask), count)
        gate = None if self.gate is None else torch.cat([ones.to(self.gate), self.gate], dim=1)
        own = self.count
        both = tuple(n + count for n in own) if isinstance(own, tuple) else own if own is None else own + count
        return Selection(replace(self.geometry, extra=count), torch.cat([ones, self.keep_mask], dim=1), gate, both)

    def within(self, before: "Selection | None") -> "Selection":
        """Only what an earlier selection kept too: what it dropped never returns."""
        if before is None:
            return self
        gate = self.gate
        if gate is not None:
            gate = gate * (before.keep_mask if before.gate is None else before.gate)
        # The scores of dropped locations are buried, so the smaller count is reached whatever the order was.
        if self.count is None or before.count is None:
            count = None
        elif isinstance(self.count, tuple) or isinstance(before.count, tuple):
            count = tuple(map(min, self.num_keep, before.num_keep))
        else:
            count = min(self.count, before.count)
        return replace(self, keep_mask=self.keep_mask & before.keep_mask, gate=gate, count=count)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Pack the rows (B * N, C) of both paths, each in memory order."""
        return rows.index_select(0, self.keep_idx), rows.index_select(0, self.rest_idx)

    def join(self, kept: Tensor, rest: Tensor) -> Tensor:
        """Put packed rows back to their own places: the inverse of ``split``."""
        dtype = torch.promote_types(kept.dtype, rest.dtype)  # autocast may leave the paths in different precisions
        if self._at_once is not None:
            return put_together(kept.to(dtype), rest.to(dtype), self.rows.inverse)
        rows = kept.new_empty((self.keep_mask.numel(), kept.shape[1]), dtype=dtype)
        rows.index_copy_(0, self.keep_idx, kept.to(dtype))
        return rows.index_copy_(0, self.rest_idx, rest.to(dtype))


def _fake_rows(mask: Tensor, total: int) -> tuple[Tensor, Tensor, Tensor]:
    number = mask.new_empty(mask.shape, dtype=torch.long)
    return number[:total].clone(), number[total:].clone(), number


@opaque(_fake_rows)
def rows_of(mask: Tensor, total: int) -> tuple[Tensor, Tensor, Tensor]:
    """``Rows`` of a flat mask with so many True entries."""
    keep, rest = _true_positions(mask, total), _true_positions(~mask, mask.shape[0] - total)
    return keep, rest, inverse_of(mask, total)


def _true_positions(flat: Tensor, total: int | None) -> Tensor:
    if total is None:
        return flat.nonzero().squeeze(1)
    if flat.device.type == "cpu":
        return torch.nonzero_static(flat, size=total).squeeze(1)
    return by_counting(flat, total)


def by_counting(flat: Tensor, total: int) -> Tensor:
    """Where the entries are of which so many are True: the k-th is where the count reaches k.

    Every torch can do it on every device without waiting for it; ``nonzero_static`` came to CUDA late.
    """
    return torch.searchsorted(flat.cumsum(0), torch.arange(1, total + 1, device=flat.device))


def kept_first(mask: Tensor) -> Tensor:
    """Where the True entries of a flat mask are, then where the others are, by what every runtime has, and quickly.

    Short masks are sorted. Of long ones, how many are True up to each entry, and then how many are not, beyond those,
    is a list that never falls; in it each number is searched in halves, by gathers and comparisons.
    """
    length = int(mask.shape[0])
    if length <= SHORT:
        number = torch.arange(length, device=mask.device)
        return torch.where(mask, number, number + length).topk(length, largest=False).indices
    both = torch.cat([mask, ~mask]).long().cumsum(0)
    steps = [2**number for number in reversed(range((2 * length).bit_length()))]
    both = F.pad(both, (0, 2 * steps[0] - len(both)), value=length + 1)  # so that no step leads out
    wanted = torch.arange(1, length + 1, device=mask.device)
    place = torch.zeros_like(wanted)
    for step in steps:
        place = torch.where(both.index_select(0, place + (step - 1)) < wanted, place + step, place)
    return torch.where(place < length, place, place - length)
