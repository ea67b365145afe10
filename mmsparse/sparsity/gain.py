"""Scores that regress what the slow path buys.

With both paths at hand, -dL/dgate at a location is what the slow path would have bought there, to first order. The
straight-through gate hands that number to the score as its gradient; here it is the number that the score learns.
"""

from typing import Any

import torch
from torch import Tensor

GATE, GAIN, STAKE = "gate", "gain", "stake"
WAYS = (GATE, GAIN, STAKE)


def gain_gate(scores: Tensor, keep_mask: Tensor, way: str, alive: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A hard gate whose gradient becomes the target of a regression.

    Args:
        scores: (B, N), what regresses.
        keep_mask: Boolean (B, N), the value of the gate.
        way: Whether the gain itself or its magnitude is the target.
        alive: Boolean (B, N), the locations that count; None for all.

    Returns:
        The gate (B, N) and a zero. The zero's gradient is the weight of the regression, so it must be part of the loss:
        that way the regression is scaled for mixed precision and accumulated steps as all losses are, whereas the
        scale of the gates' gradient does not matter.
    """
    alive = torch.ones_like(keep_mask) if alive is None else alive
    return _GainGate.apply(scores.float(), keep_mask, alive, way)


class _GainGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, keep_mask: Tensor, alive: Tensor, way: str) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(scores, keep_mask, alive)
        ctx.way = way
        return keep_mask.to(scores.dtype), scores.new_zeros(())

    @staticmethod
    def backward(ctx: Any, grad_gate: Tensor, grad_zero: Tensor) -> tuple[Tensor, None, None, None]:
        scores, keep_mask, alive = ctx.saved_tensors
        seen = alive & (grad_gate != 0)  # neither what was not tried nor what no loss looks at
        gain = -grad_gate * torch.where(keep_mask, 1.0, _tried(seen, alive, keep_mask))
        error = torch.where(seen, scores - gain_target(gain, seen, ctx.way), 0.0)
        return grad_zero * error / seen.sum(dim=1, keepdim=True).clamp_min(1) / len(scores), None, None, None


def gain_target(gain: Tensor, seen: Tensor, way: str = GAIN) -> Tensor:
    """Gains (B, N) without their heavy tails, standardised over the locations of each image that were seen."""

    def mean(values: Tensor) -> Tensor:
        return (values * seen).sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True).clamp_min(1)

    size = gain.abs()
    size = torch.log1p(size / mean(size).clamp_min(torch.finfo(gain.dtype).tiny))
    squeezed = size * gain.sign() if way == GAIN else size
    centred = squeezed - mean(squeezed)
    return centred / (mean(centred.square()).sqrt() + 1e-6)


def _tried(seen: Tensor, alive: Tensor, keep_mask: Tensor) -> Tensor:
    """The share of unselected locations whose slow path was tried.

    Their gates' gradients came scaled by its inverse, which is right for a sum over locations, not for one of them.
    """
    kept, rest = alive & keep_mask, alive & ~keep_mask
    share_kept = (seen & kept).sum() / kept.sum().clamp_min(1)
    share_rest = (seen & rest).sum() / rest.sum().clamp_min(1)
    return torch.where(share_kept > 0, share_rest / share_kept, 1.0).clamp_max(1.0)
