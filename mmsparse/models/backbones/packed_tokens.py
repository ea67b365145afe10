"""The tokens of a plain transformer between two decisions: those selected are in work; in training some others, too."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mmsparse.ops import Groups, exporting
from mmsparse.sparsity import IdentityFastPath, Selection

from .routed_attention import Keys, Pattern, Tokens, Windows, asking_attention, packed_attention


@dataclass(eq=False)
class Packed:
    """The tokens of a batch between two places: those selected, and the rest, which nobody reads."""

    kept: Tensor  # (R, C)
    rest: Tensor
    selection: Selection  # of all tokens, extra ones included
    shape: torch.Size
    groups: dict[int, Groups | int] = field(default_factory=dict)  # by the size of windows
    entering: tuple[Tensor, Groups | int] | None = None  # rows that are the next block's keys, if they are more

    @classmethod
    def of(cls, x: Tensor, selection: Selection, extra: int) -> "Packed":
        extended = selection.with_extra(extra)
        kept, rest = extended.split(x.flatten(0, 1))
        return cls(kept, rest, extended, x.shape)

    def see(self, x: Tensor, before: "Packed | None") -> None:
        """Let the next block's keys be the tokens that were in work before, or all (B, extra + N, C) of x."""
        self.entering = (x.flatten(0, 1), x.shape[1]) if before is None else (before.kept, before.images())

    def run(self, layer: nn.Module, fast: nn.Module, window: int, pattern: Pattern | None = None) -> None:
        if window not in self.groups:
            self.groups[window] = self._windows(window) if window else self.images()
        groups, h = self.groups[window], layer.ln1(self.kept)
        if self.entering is None:
            of = None if pattern is None else self._tokens(groups)
            x = self.kept + packed_attention(layer.attn, h, groups, pattern, of)
        else:
            (entering, images), self.entering = self.entering, None
            x = self.kept + asking_attention(layer.attn, h, groups, layer.ln1(entering), images)
        if exporting():  # OpenVINO 2026.4.1 crashes on two small layers of few rows (R, C) and a sum
            x = x.unsqueeze(0)
        self.kept = layer.ffn(layer.ln2(x), identity=x).view_as(self.kept)
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
            return Tokens(geometry.size, geometry.extra, numbers.view(-1, groups))
        return Tokens(geometry.size, geometry.extra, numbers[groups.rows], groups.own)

    def images(self) -> Groups | int:
        if self.selection.common_count is not None:
            return self.selection.common_count
        return Groups.of(self.selection.keep_idx // self.shape[1], total=self.shape[0])

    def _windows(self, size: int) -> Groups:
        """Where each packed row's window is; there are no extra tokens then."""
        height, width = self.selection.geometry.size
        image, cell = self.selection.keep_idx // self.shape[1], self.selection.keep_idx % self.shape[1]
        down, right = -(-height // size), -(-width // size)
        number = (image * down + cell // width // size) * right + cell % width // size
        missing = 1.0 - Windows((height, width), size).split(self.kept.new_ones(1, height * width, 1))
        return Groups.of(number, missing.sum(dim=(1, 2)).repeat(self.shape[0]))


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
        index = index.unsqueeze(-1)
        return cls(x.gather(1, index.expand(-1, -1, x.shape[2])), Keys(keep, scaled), index, x)

    def leave(self, fast: nn.Module) -> None:
        """A block's fast path for those that are not in work."""
        if not isinstance(fast, IdentityFastPath):
            self.others = self.others + fast(self.others)

    def whole(self) -> Tensor:
        return self.others.scatter(1, self.index.expand_as(self.tokens), self.tokens.to(self.others.dtype))
