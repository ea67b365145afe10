"""Selectors: scores and a budget in, a Selection out. Noise in training only; evaluation is exact and deterministic."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from mmengine.model import BaseModule
from torch import Tensor

from mmsparse.ops import exporting, opaque
from mmsparse.registry import MODELS

from .budget import num_keep
from .gain import GATE, STAKE
from .selection import Geometry, Selection
from .valid import Valid

LONG = 2048  # the best of more are not sorted in what is exported
HALVINGS = 32
BURIED = torch.finfo(torch.float32).min  # score of a location that may not be chosen
Count = int | tuple[int, ...] | None  # as a selection has it


class Selector(BaseModule):
    """Base class: the straight-through gate and the full selection are common, the rule is the subclass's.

    Args:
        tau: Temperature of the gate's gradient.

    Attributes:
        holds_count: Whether training keeps to the budget without a loss on it.
        learn: What teaches the scores unless a router says otherwise, see ``decider.Router``.
        watches: Whether it observes scores in evaluation as well.
    """

    holds_count = True
    learn = GATE
    watches = False

    def __init__(self, tau: float = 1.0) -> None:
        super().__init__()
        if not isinstance(tau, int | float) or tau <= 0:
            raise ValueError(f"{type(self).__name__}: expected argument `tau` to be positive, but got {tau!r}")
        self.tau = tau

    def forward(
        self,
        scores: Tensor,
        geometry: Geometry,
        keep_ratio: float,
        noise: float = 1.0,
        before: Selection | None = None,
        valid: Valid | None = None,
    ) -> Selection:
        """Decide.

        Args:
            scores: (B, N) logits.
            geometry: What the N units are.
            keep_ratio: Budget, the fraction of locations on the slow path.
            noise: Scale of the exploration noise of selectors that anneal it; used in training only.
            before: Choose only among what it kept.
            valid: Choose only among these locations, and keep a fraction of them.
        """
        scores = scores.float()  # log-odds and their noise need more than half precision
        dropped = None if before is None else ~before.keep_mask
        if dropped is not None:
            scores = self.bury(scores, dropped, valid)
        if valid is not None:
            scores = scores.masked_fill(~valid.mask, BURIED)
        if self.training or self.watches:
            self.observe(scores.detach(), valid)
        if keep_ratio >= 1.0:  # the dense network, whose padding is dense, too
            mask, logits, count = torch.ones_like(scores, dtype=torch.bool), scores, scores.shape[1]
        elif self.training:
            mask, logits, count = self.sample(scores, keep_ratio, noise, dropped, valid)
        else:
            mask, logits, count = self.decide(scores, keep_ratio, valid)
        if not self.training:
            return Selection(geometry, mask, count=count).within(before)
        soft = torch.sigmoid(logits / self.tau)
        return Selection(geometry, mask, gate=mask + (soft - soft.detach()), count=count).within(before)

    def observe(self, scores: Tensor, valid: Valid | None) -> None:
        """Look at scores before it is decided; in training, unless it watches."""

    def bury(self, scores: Tensor, dropped: Tensor, valid: Valid | None) -> Tensor:
        """Make sure that dropped locations take nothing of the budget."""
        return scores.masked_fill(dropped, BURIED)

    def sample(
        self, scores: Tensor, keep_ratio: float, noise: float, dropped: Tensor | None, valid: Valid | None
    ) -> tuple[Tensor, Tensor, Count]:
        """The training rule: mask, logits of the gate, count of each image if they are known."""
        raise NotImplementedError

    def decide(self, scores: Tensor, keep_ratio: float, valid: Valid | None) -> tuple[Tensor, Tensor, Count]:
        """The evaluation rule: exact top-k unless a subclass says otherwise."""
        mask, count, _ = _top_k(scores, keep_ratio, valid)
        return mask, scores, count


@MODELS.register_module()
class GumbelSelector(Selector):
    """The paper's: a location is drawn with the probability of its score; only the ratio loss holds the count.

    While the budget is annealed, a shift holds the count as well; it fades in the second half of that.
    """

    holds_count = False

    def bury(self, scores: Tensor, dropped: Tensor, valid: Valid | None) -> Tensor:
        """While training each location is drawn by itself; what happens to a dropped one still teaches its gates."""
        return scores if self.training else super().bury(scores, dropped, valid)

    def sample(
        self, scores: Tensor, keep_ratio: float, noise: float, dropped: Tensor | None, valid: Valid | None
    ) -> tuple[Tensor, Tensor, Count]:
        logits = scores + _logistic(scores)  # Gumbel-softmax over two classes is a logistic draw
        if noise > 0:
            logits = logits - min(1.0, 2.0 * noise) * _quantile(logits, keep_ratio, dropped, valid)
        return logits > 0, logits, None


@MODELS.register_module()
class TopKSelector(Selector):
    """Exact counts in training too. Its noise is annealed to zero, so training ends with the rule of evaluation."""

    learn = STAKE

    def sample(
        self, scores: Tensor, keep_ratio: float, noise: float, dropped: Tensor | None, valid: Valid | None
    ) -> tuple[Tensor, Tensor, Count]:
        noisy = scores + noise * _logistic(scores) if noise > 0 else scores
        mask, count, threshold = _top_k(noisy, keep_ratio, valid)
        return mask, noisy - threshold, count


@MODELS.register_module()
class ThresholdSelector(Selector):
    """Per-image budgets: one threshold for all images, so crowded pictures get more and empty ones less.

    The threshold for a ratio r is the (1 - r) quantile of the scores seen in training. A running estimate of the
    whole quantile function is kept, so any ratio can be asked for later. Until a training step was made it is zero.
    Each of several processes keeps that of its own pictures; ``SparsityHook`` averages them after each training step.
    In a loop of your own let all processes call ``mmsparse.engine.share_thresholds(model)``.
    """

    LEVELS = 65

    def __init__(self, tau: float = 1.0, momentum: float = 0.02) -> None:
        super().__init__(tau)
        if not isinstance(momentum, int | float) or not 0.0 < momentum <= 1.0:
            raise ValueError(f"ThresholdSelector: expected argument `momentum` to be in (0, 1], but got {momentum!r}")
        self.momentum = momentum
        self.register_buffer("quantiles", torch.zeros(self.LEVELS))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.long))
        self._fitted_to: list[Tensor] | None = None

    def bury(self, scores: Tensor, dropped: Tensor, valid: Valid | None) -> Tensor:
        """Just below all others: the running quantiles are of all locations."""
        others = scores.detach() if valid is None else scores.detach().masked_fill(~valid.mask, torch.inf)
        return torch.where(dropped, others.amin(dim=1, keepdim=True) - 1.0, scores)

    def export_objection(self, padded: bool) -> str:
        return (
            "a ThresholdSelector keeps another number of units of each picture, and an exported network has fixed "
            "shapes. Export it with selector=dict(type='TopKSelector') in `sparsity`, which the same weights fit "
            "(--cfg-options), or evaluate it in PyTorch"
        )

    def threshold(self, keep_ratio: float) -> Tensor:
        position = (1.0 - keep_ratio) * (self.LEVELS - 1)
        low = min(int(position), self.LEVELS - 2)
        return torch.lerp(self.quantiles[low], self.quantiles[low + 1], position - low)

    def sample(
        self, scores: Tensor, keep_ratio: float, noise: float, dropped: Tensor | None, valid: Valid | None
    ) -> tuple[Tensor, Tensor, Count]:
        if noise > 0:  # the running quantiles are those of scores without noise
            noisy = scores + noise * _logistic(scores)
            logits = noisy - _quantile(noisy, keep_ratio, dropped, valid)
        else:
            logits = scores - self.threshold(keep_ratio)
        return logits > 0, logits, None

    def decide(self, scores: Tensor, keep_ratio: float, valid: Valid | None) -> tuple[Tensor, Tensor, Count]:
        return scores > self.threshold(keep_ratio), scores, None

    def observe(self, scores: Tensor, valid: Valid | None) -> None:
        ranked = _ranked(scores, valid)
        if self._fitted_to is not None:
            self._fitted_to.append(ranked)
            ranked = torch.cat(self._fitted_to).sort().values
        levels = torch.linspace(0, ranked.numel() - 1, self.LEVELS, device=scores.device).round().long()
        seen = ranked[levels].to(self.quantiles.dtype)
        momentum = self.momentum if self._fitted_to is None else 1.0
        self.quantiles.lerp_(seen, torch.where(self.num_updates == 0, 1.0, momentum).to(seen))
        self.num_updates += 1

    @contextmanager
    def fit(self) -> Iterator[None]:
        """In evaluation inside a with-block, the quantiles become those of all scores that are seen there."""
        self.watches, self._fitted_to = True, []
        try:
            yield
        finally:
            self.watches, self._fitted_to = False, None


def _ranked(scores: Tensor, valid: Valid | None) -> Tensor:
    """A batch's scores in ascending order, without those of padding, which are buried."""
    padding = 0 if valid is None else scores.numel() - sum(valid.counts)
    return scores.flatten().sort().values[padding:]


def _quantile(scores: Tensor, keep_ratio: float, dropped: Tensor | None, valid: Valid | None) -> Tensor:
    """What the given fraction of a batch's scores lies above, where dropped ones count as lowest."""
    scores = scores.detach()
    ranked = _ranked(scores if dropped is None else scores.masked_fill(dropped, BURIED), valid)
    return ranked[min(int((1.0 - keep_ratio) * ranked.numel()), ranked.numel() - 1)]


def _logistic(like: Tensor) -> Tensor:
    """Standard logistic noise: the difference of two Gumbel draws."""
    uniform = torch.rand_like(like).clamp(1e-6, 1 - 1e-6)
    return torch.logit(uniform)


def _top_k(scores: Tensor, keep_ratio: float, valid: Valid | None) -> tuple[Tensor, int | tuple[int, ...], Tensor]:
    """Mask of the k best of each image; k; and each image's k-th score."""
    numbers = (scores.shape[1],) if valid is None else valid.counts
    counts = tuple(num_keep(keep_ratio, number) for number in numbers)
    counts = counts[:1] if len(set(counts)) == 1 else counts
    mask, threshold = best_of(scores.detach(), counts)
    return mask, counts[0] if len(counts) == 1 else counts, threshold


def _fake_best(scores: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape, dtype=torch.bool), scores.new_empty(scores.shape[0], 1)


@opaque(_fake_best)
def best_of(scores: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mask (B, N) of the k best of each image, the first ones of equals; and each image's k-th score (B, 1).

    The complement is never sorted, and nothing is scattered: exporters see the same.

    Args:
        scores: (B, N).
        counts: The k of all images, or of each.
    """
    # Where something overflows, counts stay exact, and what is buried below what is not.
    scores = scores.nan_to_num(nan=torch.inf, neginf=BURIED / 2)
    k, ceiling = counts[0], None
    if len(counts) > 1:
        k = torch.tensor(counts, device=scores.device).unsqueeze(1)
        threshold = scores.topk(max(counts), dim=1).values.gather(1, (k - 1).clamp_min(0))
    elif k == 0:
        return torch.zeros_like(scores, dtype=torch.bool), scores.amax(dim=1, keepdim=True)
    elif exporting() and k > LONG:
        threshold, ceiling = _around_kth(scores, k)
    else:
        threshold = scores.topk(k, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    above = scores > (threshold if ceiling is None else ceiling)
    equal = (scores >= threshold) & ~above
    room = k - above.long().sum(dim=1, keepdim=True)
    return above | (equal & (equal.long().cumsum(dim=1) <= room)), threshold


def _around_kth(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Two numbers of each image, (B, 1), with its k-th score between them, as near as float32 can tell.

    Halves their distance, and counts. Runtimes take ten times as long for long TopKs; TensorRT takes none above 3840.
    """

    def enough(bound: Tensor) -> Tensor:
        return (scores >= bound).long().sum(dim=1, keepdim=True) >= k

    high = scores.amax(dim=1, keepdim=True)
    low = torch.where(scores > BURIED / 2, scores, high).amin(dim=1, keepdim=True)
    low = torch.where(enough(low), low, BURIED)
    for _ in range(HALVINGS):
        middle = low * 0.5 + high * 0.5
        reached = enough(middle)
        low, high = torch.where(reached, middle, low), torch.where(reached, high, middle)
    return low, high
