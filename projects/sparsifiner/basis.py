"""Learned numbers of each token, on another grid of tokens than they were learned for; and tiles of tokens."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


def resize(values: Tensor, extra: int, old: Grid, new: Grid) -> Tensor:
    """Rows of numbers (m, extra + tokens) on a new grid, such that sums over a region stay about what they are.

    The extra tokens' are taken over. Nothing changes if the grid stays, and what is not negative stays so.
    """
    if old == new:
        return values
    maps = values[:, extra:].unflatten(1, old).unsqueeze(0)
    shrinks = new[0] < old[0] or new[1] < old[1]
    maps = F.interpolate(maps, size=new, mode="bilinear", antialias=shrinks)
    share = old[0] * old[1] / (new[0] * new[1])
    return torch.cat([values[:, :extra], maps[0].flatten(1) * share], dim=1)


@dataclass(frozen=True)
class Tiles:
    """Squares of locations that are chosen together; those at the right and bottom may have fewer."""

    cells: Grid
    side: int

    @property
    def grid(self) -> Grid:
        return -(-self.cells[0] // self.side), -(-self.cells[1] // self.side)

    def count(self, keys: int) -> int:
        """How many tiles hold so many keys."""
        return max(1, min(math.ceil(keys / self.side**2), self.grid[0] * self.grid[1]))

    def of_cells(self) -> Tensor:
        """The tile of each location."""
        down, right = (torch.arange(length) // self.side for length in self.cells)
        return (down[:, None] * self.grid[1] + right).flatten()

    def members(self) -> Tensor:
        """(tiles, side^2) locations of each, -1 where there is none."""
        down, right = (torch.arange(length * self.side).view(length, self.side) for length in self.grid)
        rows, columns = down[:, None, :, None], right[None, :, None, :]
        numbers = torch.where(
            (rows < self.cells[0]) & (columns < self.cells[1]), rows * self.cells[1] + columns, -1
        )  # (down, right, side, side)
        return numbers.flatten(2).flatten(0, 1)
