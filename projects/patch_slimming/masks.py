"""Masks of a slimmed transformer: which tokens each block computes of every picture. Files, and other sizes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsparse.sparsity import num_keep

FORMAT = "mmsparse slim masks 1"
KEEP, DROP = "#", "."


@dataclass(frozen=True, eq=False)
class SlimMasks:
    """Nested masks of all blocks, on the grid of patches that they were made for.

    Args:
        grid: Height and width in patches.
        patch_size: Side of a patch in pixels.
        kept: Boolean (blocks, H * W); each block keeps some of what the block before kept.
        order: (blocks, H * W), the rank of each token in its block, the larger the more significant. It breaks ties
            where masks are resized, and ranks tokens for budgets that are not the masks' own.
    """

    grid: tuple[int, int]
    patch_size: int
    kept: Tensor
    order: Tensor

    def __post_init__(self) -> None:
        size = (self.kept.shape[0], self.grid[0] * self.grid[1])
        if self.kept.shape != size or self.order.shape != size or self.kept.dtype != torch.bool:
            raise ValueError(
                f"Expected arguments `kept` (bool) and `order` to be of shape (blocks, {size[1]}) for the grid "
                f"{self.grid}, but got {self.kept.dtype} of {tuple(self.kept.shape)} and {tuple(self.order.shape)}"
            )
        returning = [block for block in range(1, size[0]) if (self.kept[block] & ~self.kept[block - 1]).any()]
        if returning:
            raise ValueError(
                f"Expected argument `kept` to be nested, but block {returning[0]} keeps what block {returning[0] - 1} "
                "dropped"
            )

    @property
    def counts(self) -> list[int]:
        """How many tokens each block keeps."""
        return self.kept.sum(dim=1).tolist()

    @property
    def places(self) -> list[int]:
        """The blocks that drop something."""
        locations = self.kept.shape[1]
        before = [locations, *self.counts[:-1]]
        return [block for block, (now, then) in enumerate(zip(self.counts, before, strict=True)) if now < then]

    def resized(self, grid: Sequence[int]) -> "SlimMasks":
        """The same masks for pictures of another size.

        Each mask is interpolated bilinearly (with antialiasing where it shrinks), and of the result the highest are
        kept: the same share, rounded as keep ratios are, chosen among what the block before keeps there.
        """
        if tuple(grid) == self.grid:
            return self
        blocks, locations = self.kept.shape
        values = self.kept + 0.5 * self.order / locations
        values = F.interpolate(
            values.view(1, blocks, *self.grid), size=tuple(grid), mode="bilinear", antialias=True, align_corners=False
        ).view(blocks, -1)
        kept = torch.zeros_like(values, dtype=torch.bool)
        alive = torch.ones_like(kept[0])
        for mask, value, count in zip(kept, values, self.counts, strict=True):
            best = value.masked_fill(~alive, -torch.inf).argsort(descending=True, stable=True)
            mask[best[: num_keep(count / locations, len(mask))]] = True
            alive = mask
        return SlimMasks(tuple(grid), self.patch_size, kept, values.argsort(stable=True).argsort())

    def write(self, path: str | Path) -> None:
        content = dict(
            format=FORMAT,
            grid=list(self.grid),
            patch_size=self.patch_size,
            kept=[_rows(mask, self.grid) for mask in self.kept],
            order=[" ".join(map(str, ranks)) for ranks in self.order.tolist()],
        )
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, path: str | Path) -> "SlimMasks":
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"Expected argument `masks` to be a mask file, but {str(path)!r} does not exist. "
                "Write it with python -m projects.patch_slimming.search"
            )
        try:
            content = json.loads(Path(path).read_text())
            known = content["format"] == FORMAT and {"grid", "patch_size", "kept", "order"} <= content.keys()
        except (ValueError, TypeError, KeyError):
            known = False
        if not known:
            raise ValueError(
                f"Argument `masks`: {str(path)!r} is no mask file that projects.patch_slimming.search wrote"
            )
        return cls._of(content)

    @classmethod
    def _of(cls, content: dict[str, Any]) -> "SlimMasks":
        kept = [[cell == KEEP for cell in "".join(rows)] for rows in content["kept"]]
        order = [[int(rank) for rank in ranks.split()] for ranks in content["order"]]
        return cls(tuple(content["grid"]), content["patch_size"], torch.tensor(kept), torch.tensor(order))


def _rows(mask: Tensor, grid: tuple[int, int]) -> list[str]:
    return ["".join(KEEP if cell else DROP for cell in row) for row in mask.view(grid).tolist()]
