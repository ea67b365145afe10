"""Which part of padded pictures is real: budgets and context are of that alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Valid:
    """The locations of a batch of maps that hold a real pixel.

    Args:
        mask: Boolean (B, N).
        sizes: Height and width of each image's, which lie in the top left corner; known without asking the device.
    """

    mask: Tensor
    sizes: tuple[tuple[int, int], ...]

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of True entries of each image."""
        return tuple(high * wide for high, wide in self.sizes)


class ValidArea:
    """The real sizes of the pictures in work, for all routers of a model. Closed, everything counts.

    Sizes of maps are taken to be proportional to the pictures', which is exact where strides divide the padded size.
    """

    def __init__(self) -> None:
        self.close()

    def open(self, sizes: Sequence[tuple[int, int]], padded: tuple[int, int]) -> None:
        """Pictures of these heights and widths lie in the top left corners of a batch of the padded size."""
        self._sizes, self._padded, self._whole = sizes, padded, True

    def see(self, size: tuple[int, int]) -> None:
        """The network is about to read pictures of a size: if it is not the padded one (crops), everything counts."""
        self._whole = size == self._padded

    def close(self) -> None:
        self._sizes: Sequence[tuple[int, int]] | None = None
        self._padded = (0, 0)
        self._whole = False
        self._seen: dict[tuple, Valid | None] = {}  # places share grids

    def on(self, size: tuple[int, int], tokens: Tensor, tile: int = 1) -> Valid | None:
        """What is valid of the maps of a size, cut into tiles; None if all is.

        Args:
            size: Height and width of the maps.
            tokens: Anything on their device, with their batch in the first dimension.
            tile: Locations along a side of a tile; one is valid if a location in it is.
        """
        if self._sizes is None or not self._whole or len(tokens) != len(self._sizes):
            return None
        key = (size, tile, tokens.device)
        if key not in self._seen:
            self._seen[key] = self._on(size, tokens.device, tile)
        return self._seen[key]

    def _on(self, size: tuple[int, int], device: torch.device, tile: int) -> Valid | None:
        def end(axis: int, real: int) -> int:
            """How many tiles of an axis hold a real pixel."""
            return math.ceil(math.ceil(real * size[axis] / self._padded[axis]) / tile)

        grid = [end(axis, self._padded[axis]) for axis in (0, 1)]
        ends = [[end(axis, real[axis]) for axis in (0, 1)] for real in self._sizes]
        if all(pair == grid for pair in ends):
            return None
        below, beyond = torch.tensor(ends, device=device).unsqueeze(-1).unbind(dim=1)  # (B, 1) each
        rows = torch.arange(grid[0], device=device) < below
        columns = torch.arange(grid[1], device=device) < beyond
        mask = (rows.unsqueeze(2) & columns.unsqueeze(1)).flatten(1)
        return Valid(mask, tuple(map(tuple, ends)))
