"""The tokens of a plain transformer between two decisions: those selected are in work; in training some others, too."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmsparse.ops import Groups, exporting
from mmsparse.sparsity import IdentityFastPath, Selection

from .positions import Positions, Tokens
from .routed_attention import Keys, Pattern, Placed, Windows, asking_attention, packed_attention, placed_attention


@dataclass(frozen=True, eq=False)
class PlainBlock:
    """What a block of a plain transformer is to routing, whatever its stock class.

    Args:
        norm: In front of its attention.
        attn: Its attention layer, under the names of mmpretrain's ``MultiheadAttention``.
        feed: Tokens to those with what its feed-forward network adds.
        window: Side of its windows; 0: it attends to all.
        pattern: Which keys its queries see; None: all that are there.
        positions: What places do to its attention.
    """

    norm: nn.Module
    attn: Any
    feed: Callable[[Tensor], Tensor]
    window: int = 0
    pattern: Pattern | None = None
    positions: Positions | None = None


@dataclass(eq=False)
class Packed:
    """The tokens of a batch between two places: those selected, and the rest, which nobody reads."""

    kept: Tensor  # (R, C)
    rest: Tensor
    selection: Selection  # of all tokens, extra ones included
    shape: torch.Size
    groups: dict[int, Groups | int] = field(default_factory=dict)  # by the size of windows
    placed: dict[int, Placed] = field(default_factory=dict)  # the same, for blocks with positions
    entering: tuple[Tensor, Groups | int, Tokens] | None = None  # rows that are the next block's keys, if more

    @classmethod
    def of(cls, x: Tensor, selection: Selection, extra: int) -> "Packed":
        extended = selection.with_extra(extra)
        kept, rest = extended.split(x.flatten(0, 1))
        return cls(kept, rest, extended, x.shape)

    def see(self, x: Tensor, before: "Packed | None") -> None:
        """Let the next block's keys be the tokens that were in work before, or all (B, extra + N, C) of x."""
        if before is None:
            geometry = self.selection.geometry
            self.entering = x.flatten(0, 1), x.shape[1], Tokens(geometry.size, geometry.extra)
        else:
            images = before.images()
            self.entering = before.kept, images, before._tokens(images)

    def run(self, block: PlainBlock, fast: nn.Module) -> None:
        h, entering = block.norm(self.kept), None
        if self.entering is not None:
            (entering, images, of), self.entering = self.entering, None
            entering = block.norm(entering)
        if block.positions is not None:
            placed = self._placed(block.window)
            if entering is not None:
                placed = Placed(placed.groups, placed.tokens, images, of)
            mixed = placed_attention(block.attn, h, block.positions, placed, entering)
        elif entering is not None:
            mixed = asking_attention(block.attn, h, self._groups(block.window), entering, images)
        else:
            groups = self._groups(block.window)
            of = None if block.pattern is None else self._tokens(groups)
            mixed = packed_attention(block.attn, h, groups, block.pattern, of)
        x = self.kept + mixed
        if exporting():  # OpenVINO 2026.4.1 crashes on two small layers of few rows (R, C) and a sum
            x = x.unsqueeze(0)
        self.kept = block.feed(x).view_as(self.kept)
        self.leave(fast)

    def leave(self, fast: nn.Module) -> None:
        """A block's fast path for the rest."""
        if not isinstance(fast, IdentityFastPath):
            self.rest = self.rest + fast(self.rest)

    def whole(self) -> Tensor:
        return self.selection.join(self.kept, self.rest).view(self.shape)

    def _tokens(self, groups: Groups | int) -> Tokens:
        """Which tokens the rows of each group are."""
        geometry, numbers = self.selection.geometry, self.selection.keep_idx % self.shape[1]
        if isinstance(groups, int):
            return Tokens(geometry.size, geometry.extra, numbers.view(self.shape[0], groups))
        return Tokens(geometry.size, geometry.extra, numbers[groups.rows], groups.own)

    def images(self) -> Groups | int:
        if self.selection.common_count is not None:
            return self.selection.common_count
        return Groups.of(self.selection.keep_idx // self.shape[1], total=self.shape[0])

    def _groups(self, window: int) -> Groups | int:
        if window not in self.groups:
            self.groups[window] = self._windows(window) if window else self.images()
        return self.groups[window]

    def _windows(self, size: int) -> Groups:
        """Where each packed row's window is; there are no extra tokens then."""
        return Groups.of(self._window_of_each(size), self._missing(size).sum(dim=1).repeat(self.shape[0]))

    def _window_of_each(self, size: int) -> Tensor:
        height, width = self.selection.geometry.size
        image, cell = self.selection.keep_idx // self.shape[1], self.selection.keep_idx % self.shape[1]
        down, right = -(-height // size), -(-width // size)
        return (image * down + cell // width // size) * right + cell % width // size

    def _missing(self, size: int) -> Tensor:
        """1.0 for what a picture's windows lack, (windows, size^2)."""
        height, width = self.selection.geometry.size
        there = self.kept.new_ones(1, height * width, 1)
        return 1.0 - Windows((height, width), size).split(there).squeeze(-1)

    def _placed(self, window: int) -> Placed:
        """Groups of images or of windows; what a window lacks are keys, each at its own place."""
        if window in self.placed:
            return self.placed[window]
        groups = self._groups(window)
        if not window:
            of = self._tokens(groups)
            self.placed[window] = Placed(groups, of, groups, of)
            return self.placed[window]
        width, number = self.selection.geometry.size[1], self._window_of_each(window)
        cell = self.selection.keep_idx % self.shape[1]
        place = cell // width % window * window + cell % width % window
        lacking = self._missing(window).repeat(self.shape[0], 1).nonzero()
        lacking = lacking[torch.isin(lacking[:, 0], number)]
        places = torch.cat([place, lacking[:, 1]])
        asked = Groups.of(torch.cat([number, lacking[:, 0]]))
        tokens, keys = (Tokens((window, window), 0, places[g.rows], g.own) for g in (groups, asked))
        self.placed[window] = Placed(groups, tokens, asked, keys, len(lacking))
        return self.placed[window]


@dataclass(eq=False)
class Tried:
    """While training: the selected tokens, and a sample of the others that informs their gates."""

    tokens: Tensor  # (B, n, C)
    keys: Keys  # of these
    index: Tensor  # (B, n, 1), which of all they are
    others: Tensor  # (B, extra + N, C), where those that are not in work are

    @classmethod
    def of(cls, x: Tensor, keys: Keys, count: int, explore: float) -> "Tried":
        """Of all tokens, of which so many are selected in each picture.

        The gradients of the sample's gates are scaled by its inverse share, so the expectation stays.
        """
        rest = x.shape[1] - count
        sample = math.ceil(explore * rest)
        order = torch.rand(keys.keep.shape, device=x.device).masked_fill(keys.keep, 2.0)
        index = order.topk(count + sample, dim=1).indices.sort(dim=1).values
        keep, gate = keys.keep.gather(1, index), keys.gate.gather(1, index)
        scaled = torch.where(keep, gate, gate.detach() + (gate - gate.detach()) * (rest / max(sample, 1)))
        keys, index = Keys(keep, scaled, index), index.unsqueeze(-1)
        return cls(x.gather(1, index.expand(-1, -1, x.shape[2])), keys, index, x)

    def leave(self, fast: nn.Module) -> None:
        """A block's fast path for those that are not in work."""
        if not isinstance(fast, IdentityFastPath):
            self.others = self.others + fast(self.others)

    def whole(self) -> Tensor:
        return self.others.scatter(1, self.index.expand_as(self.tokens), self.tokens.to(self.others.dtype))
