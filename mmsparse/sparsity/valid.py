"""Which part of padded pictures is real: budgets and context are of that alone.

The real sizes of the pictures in work are known to the call, in a variable that threads do not share.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mmsparse.ops import OfThread

from .selection import Geometry

Size = tuple[int, int]
Sizes = Sequence[Size] | Tensor  # an exported network is given them (B, 2)


@dataclass(frozen=True, eq=False)
class Valid:
    """The units of a batch of maps that hold a real pixel.

    Args:
        mask: Boolean (B, N).
        sizes: Height and width of each image's, which lie in the top left corner; known without asking the device.
            Of an exported network, whose counts are fixed, those of whole maps.
    """

    mask: Tensor
    sizes: tuple[Size, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of True entries of each image."""
        return tuple(high * wide for high, wide in self.sizes)


@dataclass(frozen=True, eq=False)
class Batch:
    """One of several batches of pictures that a call has, and their real sizes."""

    pictures: Tensor  # (B, C, H, W)
    sizes: Sequence[Size] | None


@dataclass(frozen=True, eq=False)
class _Call:
    """Pictures of real sizes in the top left corners of a batch of a padded size; without sizes all is real."""

    owner: object
    sizes: Sizes | None
    padded: Size
    outer: "_Call | None"
    batches: Sequence[Batch] = ()  # where there are several, sizes are those of the one in work
    whole: bool = True  # the network reads the pictures, not crops of them
    found: dict[tuple, Valid | None] = field(default_factory=dict)  # places share grids


_CALL: OfThread[_Call | None] = OfThread(None)


@contextmanager
def real_sizes(sizes: Sizes | None, padded: Size = (0, 0)) -> Iterator[None]:
    """Inside a with-block, pictures have these heights and widths in a batch of the padded size.

    With None everything counts, whatever was known outside.
    """
    with _CALL.set(_Call(None, sizes, padded, _CALL.value)):
        yield


def enter(owner: object, sizes: Sequence[Size] | None, padded: Size, batches: Sequence[Batch] = ()) -> None:
    """The beginning of a call; for hooks, which cannot hold a with-block. Sizes or several batches, not both."""
    _CALL.value = _Call(owner, sizes, padded, _CALL.value, batches)


def leave(owner: object) -> None:
    """The end of the call that the owner began last, and of what was begun inside and not ended."""
    call = _CALL.value
    while call is not None and call.owner is not owner:
        call = call.outer
    if call is not None:
        _CALL.value = call.outer


def read(pictures: Tensor) -> None:
    """The network is about to read pictures (B, C, H, W): of anything but what the call has (crops), all counts."""
    if (call := _CALL.value) is None:
        return
    size = (int(pictures.shape[-2]), int(pictures.shape[-1]))
    if call.batches:
        sizes = next((batch.sizes for batch in call.batches if batch.pictures is pictures), None)
        _CALL.value = replace(call, sizes=sizes, padded=size, found={})
    else:
        _CALL.value = replace(call, whole=size == call.padded)


def sizes_of_call(batch: int) -> list[Size] | None:
    """Heights and widths of the real pictures of a batch; None if they are not known, or all of it is real."""
    call = _CALL.value
    if call is None or not call.whole or call.sizes is None or batch != len(call.sizes):
        return None
    return [tuple(size) for size in call.sizes]


def valid_units(geometry: Geometry, tokens: Tensor) -> Valid | None:
    """Which units of maps are valid, those that hold a valid location; None if all are.

    Sizes of maps are taken to be proportional to the pictures', which is exact where strides divide the padded size.

    Args:
        geometry: What the units are.
        tokens: Anything on their device, with their batch in the first dimension.
    """
    call = _CALL.value
    if call is None or not call.whole or call.sizes is None or len(tokens) != len(call.sizes) or geometry.of_regions:
        return None
    key = (geometry, tokens.device)
    if key not in call.found:
        call.found[key] = _valid(call, geometry, tokens.device)
    return call.found[key]


def _valid(call: _Call, geometry: Geometry, device: torch.device) -> Valid | None:
    def end(axis: int, real: Any) -> Any:
        """How many tiles of an axis hold a real pixel, of a number or of a tensor of numbers."""
        locations = -(-real * geometry.size[axis] // call.padded[axis])
        return -(-locations // geometry.tile)

    if isinstance(call.sizes, Tensor):
        ends = torch.stack([end(axis, call.sizes[:, axis]) for axis in (0, 1)], dim=1).to(device)
        sizes = (geometry.grid,) * len(call.sizes)
    else:
        pairs = [[end(axis, real[axis]) for axis in (0, 1)] for real in call.sizes]
        if all(pair == [end(axis, call.padded[axis]) for axis in (0, 1)] for pair in pairs):
            return None
        ends, sizes = torch.tensor(pairs, device=device), tuple(map(tuple, pairs))
    below, beyond = ends.unsqueeze(-1).unbind(dim=1)  # (B, 1) each
    rows = torch.arange(geometry.grid[0], device=device) < below
    columns = torch.arange(geometry.grid[1], device=device) < beyond
    return Valid((rows.unsqueeze(2) & columns.unsqueeze(1)).flatten(1), sizes)
