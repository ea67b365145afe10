"""Tokens at equal steps of their scores' cumulative distribution: alike ones are drawn twice, and kept once."""

import torch
from torch import Tensor

from mmsparse.registry import MODELS
from mmsparse.sparsity import Selector, Valid, num_keep
from mmsparse.sparsity.selectors import BURIED

Count = int | tuple[int, ...] | None


@MODELS.register_module()
class InverseSelector(Selector):
    """At most as many tokens as the budget says, fewer where a few have most of the scores' softmax.

    Nothing is drawn at random, in training neither, and the selection teaches the scores nothing. A budget of 1 is the
    dense network; 0.999 asks for as many samples as there are tokens.
    """

    def sample(
        self, scores: Tensor, keep_ratio: float, noise: float, dropped: Tensor | None, valid: Valid | None
    ) -> tuple[Tensor, Tensor, Count]:
        return self.decide(scores.detach(), keep_ratio, valid)

    def decide(self, scores: Tensor, keep_ratio: float, valid: Valid | None) -> tuple[Tensor, Tensor, Count]:
        numbers = (scores.shape[1],) if valid is None else valid.counts
        counts = torch.tensor([num_keep(keep_ratio, number) for number in numbers], device=scores.device)
        return inverse_sample(scores, counts.expand(len(scores))), scores, None

    def export_objection(self, padded: bool) -> str:
        return (
            "an InverseSelector keeps another number of units of each picture, and an exported network has fixed "
            "shapes. Export it with selector=dict(type='TopKSelector') in `sparsity` (--cfg-options), or evaluate it "
            "in PyTorch"
        )


def inverse_sample(scores: Tensor, counts: Tensor) -> Tensor:
    """Mask (B, N) of what so many levels (B,) of the cumulative softmax of scores (B, N) hit; buried ones are none.

    The tokens stand in ascending order, and their cumulative distribution is stretched to [0, 1]. The levels are at
    equal distances from its smallest positive entry to 1, and each takes the token whose entry is nearest.
    """
    alive = scores > BURIED / 2
    share = scores.double().softmax(dim=1).masked_fill(~alive, 0.0)  # so that near ties fall the same in every batch
    share, order = share.masked_fill(~alive, -1.0).sort(dim=1, stable=True)  # those that are none come first
    there = share >= 0
    reached = share.clamp_min(0.0).cumsum(dim=1)
    low = reached.masked_fill(~there, torch.inf).amin(dim=1, keepdim=True)
    reached = (reached - low) / (reached[:, -1:] - low).clamp_min(1e-30)
    first = reached.masked_fill(~(there & (reached > 0)), 1.0).amin(dim=1, keepdim=True)
    number = torch.arange(int(counts.max()), device=scores.device)
    last = (counts.unsqueeze(1) - 1).clamp_min(0)
    levels = 1.0 - (1.0 - first) * number.minimum(last) / last.clamp_min(1)  # (B, K), from the top; none is left over
    nearest = _nearest(reached.masked_fill(~there, -torch.inf), levels)
    mask = torch.zeros_like(alive).scatter_(1, order.gather(1, nearest), True)
    return mask & alive & (counts > 0).unsqueeze(1)


def _nearest(ascending: Tensor, levels: Tensor) -> Tensor:
    """The entry (B, N) that is nearest to each level (B, K), the lower of two."""
    above = torch.searchsorted(ascending, levels).clamp_max(ascending.shape[1] - 1)
    below = (above - 1).clamp_min(0)
    nearer = ascending.gather(1, above) - levels < levels - ascending.gather(1, below)
    return torch.where(nearer, above, below)
