"""Token importance: how much of a block's attention each token gets, and which tokens that keeps."""

import torch
from torch import Tensor

from mmsparse.registry import MODELS
from mmsparse.sparsity import AttentionScorer, Context, TopKSelector, Valid

Count = int | tuple[int, ...] | None


@MODELS.register_module()
class TokenImportanceScorer(AttentionScorer):
    """The logarithm of the attention that a token gets, whose sum over a picture is one.

    Args:
        channels: Number of channels of the tokens.
        kind: ``column``: from all tokens, ``class``: from the class token.
    """

    def __init__(self, channels: int, kind: str = "column") -> None:
        super().__init__(channels, kind)

    def forward(self, tokens: Tensor, context: Context) -> Tensor:
        mass = self.mass(context).float().clamp_min(1e-12)
        if context.alive is not None:
            mass = mass * context.alive
        return (mass / mass.sum(dim=1, keepdim=True).clamp_min(1e-12)).clamp_min(1e-12).log()


@MODELS.register_module()
class ImportanceSelector(TopKSelector):
    """A fixed count, or as many tokens as hold a share of the importance.

    Training keeps a fixed count, and the selection teaches the scores nothing: what teaches them is the attention of a
    teacher. In evaluation ``mass`` lets each picture have its own budget, from the same weights.

    Args:
        mass: In evaluation keep the fewest tokens whose importance sums to this share; None keeps ``keep_ratio``.
    """

    learn = "gate"

    def __init__(self, mass: float | None = None, tau: float = 1.0) -> None:
        super().__init__(tau)
        if mass is not None and (not isinstance(mass, int | float) or not 0.0 < mass <= 1.0):
            raise ValueError(f"ImportanceSelector: expected argument `mass` to be None or in (0, 1], but got {mass!r}")
        self.mass = mass

    def sample(
        self, scores: Tensor, keep_ratio: float, noise: float, dropped: Tensor | None, valid: Valid | None
    ) -> tuple[Tensor, Tensor, Count]:
        return super().sample(scores.detach(), keep_ratio, noise, dropped, valid)

    def decide(self, scores: Tensor, keep_ratio: float, valid: Valid | None) -> tuple[Tensor, Tensor, Count]:
        if self.mass is None:
            return super().decide(scores, keep_ratio, valid)
        share, order = scores.softmax(dim=1).sort(dim=1, descending=True)
        before = share.cumsum(dim=1) - share
        mask = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, before < self.mass)
        return mask, scores, None
