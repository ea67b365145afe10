"""What the places of tokens do to an attention: biases by relative place, decomposed ones, and rotations.

All of it follows from the numbers of the tokens that are there, so selected tokens need no tables of their own: biases
are read from the trained tables at the pairs of queries and keys, and rotations at each token's own place.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from mmpretrain.models.backbones.vit_sam import get_rel_pos
from mmpretrain.models.utils import RotaryEmbeddingFast
from torch import Tensor

Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Tokens:
    """Which tokens of their maps the rows of an attention are.

    Args:
        grid: Of the maps.
        extra: Number of tokens before the map's.
        numbers: (G, n) of the extra tokens and the map's in one count; None: all of them.
        there: Boolean (G, n), False where a row is not selected, or fills up a shorter group; None: all are there.
    """

    grid: Grid
    extra: int
    numbers: Tensor | None = None
    there: Tensor | None = None

    def of_images(self) -> list[Tensor]:
        """The numbers of each image, without those that fill it up; they come first."""
        if self.there is None:
            return list(self.numbers)
        return [numbers[there] for numbers, there in zip(self.numbers, self.there, strict=True)]

    def numbered(self, device: torch.device) -> Tensor:
        """Their numbers (G or 1, n)."""
        if self.numbers is not None:
            return self.numbers
        return torch.arange(self.extra + self.grid[0] * self.grid[1], device=device).unsqueeze(0)

    def places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Their rows and columns (G or 1, n); those of extra tokens mean nothing."""
        cells = (self.numbered(device) - self.extra).clamp_min(0)
        return cells // self.grid[1], cells % self.grid[1]


class Positions(Protocol):
    """What places do to the attention of a block."""

    def place(self, query: Tensor, key: Tensor, asking: Tokens, asked: Tokens) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries (G, heads, n, d) and keys (G, heads, m, d), and what is added to logits (G or 1, heads, n, m)."""


@dataclass(frozen=True, eq=False)
class RelativeBias:
    """A number a head for each difference of two places, as in BEiT; three more are of pairs with the class token.

    Args:
        table: (T, heads), of rows' and columns' differences, then of the class token's queries, its key, and both.
        size: The map that the table is for; smaller ones have fewer differences.
    """

    table: Tensor
    size: Grid

    def place(self, query: Tensor, key: Tensor, asking: Tokens, asked: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        height, width = self.size
        ours, theirs = (self._flat(tokens, query.device) for tokens in (asking, asked))
        index = ours[:, :, None] - theirs[:, None, :] + (height - 1) * (2 * width - 1) + width - 1  # (G, n, m)
        if asking.extra:
            first, second = (tokens.numbered(query.device) < tokens.extra for tokens in (asking, asked))
            first, second, last = first[:, :, None], second[:, None, :], len(self.table) - 1
            index = torch.where(second, last - 1, index)
            index = torch.where(first, torch.where(second, last, last - 2), index)
        return query, key, self.table.t()[:, index].transpose(0, 1).to(query.dtype)

    def _flat(self, tokens: Tokens, device: torch.device) -> Tensor:
        down, right = tokens.places(device)
        return down * (2 * self.size[1] - 1) + right


@dataclass(frozen=True, eq=False)
class DecomposedBias:
    """Products of each query with a vector for the difference of rows and one for that of columns, as in SAM, ViTDet.

    Args:
        down, right: (L, d) of the differences along each side; resized, as by the stock class, where they do not fit.
    """

    down: Tensor
    right: Tensor

    def place(self, query: Tensor, key: Tensor, asking: Tokens, asked: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        bias = None
        sides = zip(
            (self.down, self.right), asking.grid, *(t.places(query.device) for t in (asking, asked)), strict=True
        )
        for table, side, ours, theirs in sides:
            pairs = get_rel_pos(side, side, table).to(query.dtype)  # (side, side, d) of the same few vectors
            vectors = torch.cat([pairs[0].flip(0), pairs[1:, 0]])  # (2 * side - 1, d)
            away = ours[:, :, None] - torch.arange(side, device=query.device) + side - 1  # (G, n, side)
            products = query @ vectors.t()  # (G, heads, n, 2 * side - 1)
            products = products.gather(-1, away.unsqueeze(1).expand(*query.shape[:3], -1))
            added = products.gather(-1, theirs[:, None, None].expand(*query.shape[:3], -1))
            bias = added if bias is None else bias + added
        return query, key, bias


@dataclass(frozen=True, eq=False)
class Rotary:
    """Queries and keys of the map turned by angles of their places, as in EVA-02."""

    rope: RotaryEmbeddingFast

    def place(self, query: Tensor, key: Tensor, asking: Tokens, asked: Tokens) -> tuple[Tensor, Tensor, None]:
        return self._turn(query, asking), self._turn(key, asked), None

    def _turn(self, rows: Tensor, tokens: Tokens) -> Tensor:
        numbers = tokens.numbered(rows.device)
        cosine, sine = (
            torch.cat([table.new_full((tokens.extra, table.shape[1]), still), table])[numbers].unsqueeze(1)
            for table, still in zip(self._tables(tokens.grid, rows.device), (1.0, 0.0), strict=True)
        )
        first, second = rows.unflatten(-1, (-1, 2)).unbind(-1)
        return (rows * cosine + torch.stack((-second, first), dim=-1).flatten(-2) * sine).to(rows.dtype)

    def _tables(self, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
        """(H * W, d), without writing them on the module, as its own forward does."""
        rope = self.rope
        if tuple(grid) == tuple(rope.patch_resolution):
            return rope.freqs_cos, rope.freqs_sin
        frequency = 1.0 / rope.theta ** (torch.arange(0, rope.half_dim, 2, device=device).float() / rope.half_dim)
        down, right = (
            (torch.arange(side, device=device) / side * rope.half_dim)[:, None] * frequency.repeat(2) for side in grid
        )
        angles = torch.cat([down[:, None].expand(*grid, -1), right[None].expand(*grid, -1)], dim=-1).flatten(0, 1)
        return angles.cos(), angles.sin()
