"""The search: from the last block to the first, as few tokens as the block behind can be rebuilt from.

A block keeps what the block behind it keeps, and of the others the most significant, more and more of them, until the
output of the block behind is what it was but for an error of a share eps of its square sum. In between, the block alone
is trained to rebuild that output.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import record, slim_block
from .significance import significance

Draw = Callable[[int], list[Tensor]]  # number of a block -> batches of preprocessed pictures, drawn for it


@dataclass(frozen=True)
class Settings:
    """What determines a search.

    Args:
        eps: How wrong the output of the block behind may get: squared error as a share of its square sum.
        step: How many tokens are added at once.
        epochs: How often a block is trained on the drawn pictures after tokens were added.
        lr: Of that training.
        control: Tokens are added in a random order instead of that of their scores, to see what the scores are worth.
    """

    eps: float = 0.02
    step: int = 10
    epochs: int = 3
    lr: float = 1e-5
    control: bool = False

    def __post_init__(self) -> None:
        for name, least in (("eps", 0), ("step", 1), ("epochs", 0), ("lr", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"Expected argument `{name}` to be at least {least}, but got {getattr(self, name)}")


@dataclass
class Progress:
    """What is known so far; blocks from ``next`` + 1 on are done."""

    next: int
    kept: Tensor  # boolean (blocks, extra + N)
    scores: Tensor  # (blocks, extra + N)
    errors: list[tuple[float, float] | None] = field(default_factory=list)  # of each block before and after training


class TopDown:
    """The search over one network.

    Args:
        backbone: A dense ``DynamicViT`` in evaluation mode. Its blocks are trained.
        settings: See ``Settings``.
        whole: Whether the whole map is read (dense prediction), not the class token alone.
    """

    def __init__(self, backbone: nn.Module, settings: Settings, whole: bool) -> None:
        self.backbone = backbone
        self.original = copy.deepcopy(backbone.layers)
        self.settings = settings
        self.whole = whole

    def start(self, tokens: int) -> Progress:
        """Everything is kept; of a classifier the last block computes the class token alone."""
        blocks, extra = self.backbone.num_layers, self.backbone.num_extra_tokens
        kept = torch.ones(blocks, tokens, dtype=torch.bool, device=next(self.backbone.parameters()).device)
        progress = Progress(blocks - 1, kept, torch.zeros(blocks, tokens), [None] * blocks)
        if not self.whole:
            kept[-1, extra:] = False
            progress.next -= 1
        return progress

    def block(self, progress: Progress, draw: Draw, tell: Callable[..., Any] = lambda **_: None) -> None:
        """Find the mask of the next block. ``tell`` hears how many tokens it keeps and the error of that."""
        block, extra = progress.next, self.backbone.num_extra_tokens
        batches = [self._embed(pictures) for pictures in draw(block)]
        scores = torch.stack([self._scores(x, progress.kept, block) for x in batches]).mean(dim=0)
        if self.settings.control:
            scores = torch.rand_like(scores)
        ranked = scores[extra:].argsort(descending=True, stable=True) + extra
        kept = torch.zeros_like(progress.kept[block])
        kept[:extra] = True
        if block + 1 < len(progress.kept):
            kept |= progress.kept[block + 1]
        ranked = ranked[~kept[ranked]]
        states = [self._states(x, block) for x in batches]
        first = error = self._error(states, progress.kept, kept, block)
        while error > self.settings.eps and not kept.all():
            tell(kept=int(kept[extra:].sum()), error=error)
            if self.settings.epochs:
                self._rebuild(states, progress.kept, kept, block)
                error = self._error(states, progress.kept, kept, block)
            if error > self.settings.eps:
                added, ranked = ranked[: self.settings.step], ranked[self.settings.step :]
                kept[added] = True
                first = error = self._error(states, progress.kept, kept, block)
        tell(kept=int(kept[extra:].sum()), error=error)
        progress.kept[block], progress.scores[block], progress.errors[block] = kept, scores, (first, error)
        progress.next -= 1

    @torch.no_grad()
    def _embed(self, pictures: Tensor) -> Tensor:
        return self.backbone._embed(pictures)[0]

    def _scores(self, x: Tensor, kept: Tensor, block: int) -> Tensor:
        """Of the tokens of a block, mean over a batch; only the blocks behind it are slimmed."""
        kept = kept.clone()
        kept[: block + 1] = True
        inputs, maps = record(self.backbone.layers, x, kept, first=block)
        return significance(maps, inputs[block:-1], self.whole)[0].mean(dim=0).cpu()

    @torch.no_grad()
    def _states(self, x: Tensor, block: int) -> list[Tensor]:
        """What the original network has before a block, behind it, and behind the next one (if there is one)."""
        states = []
        for number, layer in enumerate(self.original[: block + 2]):
            if number >= block:
                states.append(x)
            x = layer(x)
        return [*states, x]

    def _rebuilt(self, states: list[Tensor], kept: Tensor, mine: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor]:
        """What the slimmed blocks make of it, what it should be, and which tokens of it count (M,)."""
        everything = torch.ones_like(mine)
        made = slim_block(self.backbone.layers[block], states[0], mine, everything)
        if len(states) == 2:  # the last block: the map itself
            return made, states[1], everything
        behind = kept[block + 1]
        made = slim_block(self.backbone.layers[block + 1], made, behind, mine)
        if not self.whole:
            return made, states[2], behind
        # What the block behind drops keeps this one's value, and that is read.
        return made, torch.where(behind.unsqueeze(-1), states[2], states[1]), everything

    @torch.no_grad()
    def _error(self, batches: list[list[Tensor]], kept: Tensor, mine: Tensor, block: int) -> float:
        """The squared error as a share of the square sum of what it should be."""
        wrong = whole = 0.0
        for states in batches:
            made, wanted, counts = self._rebuilt(states, kept, mine, block)
            wrong += (made - wanted)[:, counts].square().sum().item()
            whole += wanted[:, counts].square().sum().item()
        return wrong / max(whole, 1e-12)

    def _rebuild(self, batches: list[list[Tensor]], kept: Tensor, mine: Tensor, block: int) -> None:
        """Train one block alone on what the original network gives it."""
        layer = self.backbone.layers[block]
        optimizer = torch.optim.AdamW(layer.parameters(), lr=self.settings.lr)
        for _ in range(self.settings.epochs):
            for states in batches:
                made, wanted, counts = self._rebuilt(states, kept, mine, block)
                loss = (made - wanted)[:, counts].square().sum() / wanted[:, counts].square().sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
