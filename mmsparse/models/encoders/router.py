"""Decisions of an encoder over a pyramid: which of its tokens are refined."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import ModuleDict
from torch import Tensor

from mmsparse.registry import build
from mmsparse.sparsity import FastPath, Geometry, Paths, Router, Selection

Size = tuple[int, int]


class EncoderRouter(Router):
    """Decisions and fast paths of an encoder that is given all levels of a pyramid as one row of tokens.

    A level decides once for all layers, from what the first one is given.

    Args:
        channels: Number of channels of a token.
        levels_given: How many levels there are.
        layers: Number of layers.
        finest_last: Whether the levels come in the order of their resolution.
        keep_ratio: One number, or one for each decision, the finest level first.
        levels: How many of the finest levels are routed; all tokens of the others are refined.
        scorer: Config of the scorers: PeakScorer unless given.
        selector: Config of the selectors.
        fast_path: Config of the fast paths: tokens that are not selected keep their value unless given.
        explore: Fraction of unselected tokens whose slow value informs the scorer in training.
        detach: Whether scorers read detached features.
        learn: What teaches the scores, see :class:`Router`.
    """

    def __init__(
        self,
        channels: int,
        levels_given: int,
        layers: int,
        finest_last: bool,
        *,
        keep_ratio: float | Sequence[float] = 0.5,
        levels: int = 3,
        scorer: dict[str, Any] | None = None,
        selector: dict[str, Any] | None = None,
        fast_path: dict[str, Any] | None = None,
        explore: float = 1.0,
        detach: bool = True,
        learn: str | None = None,
    ) -> None:
        super().__init__(explore, detach, learn)
        if type(levels) is not int or levels < 1:
            raise ValueError(f"Expected argument `levels` to be a positive whole number, but got {levels!r}")
        self.finest_last = finest_last
        for level in range(min(levels, levels_given)):
            where = "a deformable encoder"
            self.add(f"level{level}", f"encoder.level{level}", channels, scorer, selector, where, several=layers > 1)
        stays = dict(type="IdentityFastPath")
        made = (build(fast_path or stays, FastPath, "fast_path", channels=channels) for _ in range(layers))
        self.fast_paths = ModuleDict({str(layer): fast for layer, fast in enumerate(made)})
        self.set_keep_ratio(keep_ratio)

    def decide(self, tokens: Tensor, sizes: Sequence[Size]) -> Selection | None:
        """Which tokens (B, N, C) of levels of some sizes are refined; None: all."""
        order = -1 if self.finest_last else 1
        levels = list(zip(sizes, tokens.split([high * wide for high, wide in sizes], dim=1), strict=True))[::order]
        decisions = [*self.decisions.values(), *[None] * (len(levels) - len(self.decisions))]
        parts = [decide and decide(own, Geometry(size)) for decide, (size, own) in zip(decisions, levels, strict=True)]
        return None if all(part is None for part in parts) else joined(parts[::order], tokens, sizes)

    def paths(self, layer: int, selection: Selection) -> Paths:
        stays = self.fast_paths[str(layer)]
        return Paths(selection, lambda rows: rows + stays(rows), self.explore)


def joined(parts: Sequence[Selection | None], tokens: Tensor, sizes: Sequence[Size]) -> Selection:
    """The decisions of levels as one for all tokens (B, N, C); a level without one keeps all."""
    batch = tokens.shape[0]
    known = [
        Selection(Geometry(size), tokens.new_ones(batch, size[0] * size[1], dtype=torch.bool), None, size[0] * size[1])
        if part is None
        else part
        for part, size in zip(parts, sizes, strict=True)
    ]
    gate = None
    if any(part.gate is not None for part in known):
        gate = torch.cat([part.keep_mask.float() if part.gate is None else part.gate for part in known], dim=1)
    counts = [part.count for part in known]
    if None in counts:
        count = None
    elif all(isinstance(number, int) for number in counts):
        count = sum(counts)
    else:
        count = tuple(map(sum, zip(*(part.num_keep for part in known), strict=True)))
    return Selection(Geometry((1, tokens.shape[1])), torch.cat([part.keep_mask for part in known], dim=1), gate, count)
