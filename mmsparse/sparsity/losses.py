"""Losses on what the places decided, and on what a teacher gives."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def ratio_loss(gate: Tensor, keep_ratio: float, per_image: bool = True, valid: Tensor | None = None) -> Tensor:
    """Squared distance of the measured keep ratio from its target.

    Args:
        gate: (B, N) straight-through gates.
        keep_ratio: The target.
        per_image: Hold every image to the target, as the paper does. False holds only the batch to it, so that
            images may differ.
        valid: Boolean (B, N), the locations that count; all if None.
    """
    if valid is not None:
        total, count = (gate.float() * valid).sum(dim=1), valid.sum(dim=1)
        measured = total / count if per_image else total.sum() / count.sum()
    else:
        measured = gate.float().mean(dim=1) if per_image else gate.float().mean()
    return (measured - keep_ratio).square().mean()


def score_loss(scores: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Cross entropy of scores with labels of where it matters; both answers weigh the same however rare one is.

    Args:
        scores: (B, N) logits.
        target: (B, N) of 0 and 1.
        valid: Boolean (B, N), the locations that count; all if None.
    """
    if valid is not None:
        scores, target = scores[valid], target[valid]
    positive = target.mean().clamp(1e-3, 1 - 1e-3)
    weight = target / positive + (1 - target) / (1 - positive)
    return 0.5 * F.binary_cross_entropy_with_logits(scores.float(), target, weight=weight)


def feature_distillation(student: Tensor, teacher: Tensor, keep_mask: Tensor | None = None) -> Tensor:
    """Mean squared error of features over batch, positions and channels.

    Args:
        student: (B, N, C).
        teacher: (B, N, C), without gradient.
        keep_mask: Boolean (B, N), the positions that count; the loss is 0 if there is none.
    """
    error = (student.float() - teacher.float()).square().mean(dim=-1)  # (B, N)
    if keep_mask is None:
        return error.mean()
    return (error * keep_mask).sum() / keep_mask.sum().clamp(min=1)


def logit_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence of the student's class distribution from the teacher's, mean over the batch; both (B, classes)."""
    mine, target = F.log_softmax(student.float(), dim=-1), F.log_softmax(teacher.float(), dim=-1)
    return F.kl_div(mine, target, reduction="batchmean", log_target=True)


def detection_distillation(student: Sequence[Sequence[Tensor]], teacher: Sequence[Sequence[Tensor]]) -> Tensor:
    """How far the predictions of a dense head are from a teacher's, over all levels, per object that this one sees.

    Args:
        student: Lists of maps (B, K, H, W), one of each level: logits of classes first, by sigmoid; then whatever else
            is predicted there, as boxes and their quality.
        teacher: The same; no gradient goes there.
    """
    (logits, *mine), (wanted, *theirs) = ([_at_locations(part) for part in parts] for parts in (student, teacher))
    target = wanted.detach().sigmoid()
    weight = (logits.detach().sigmoid() - target).abs()  # what agrees already, nearly everything, weighs little
    seen = target.amax(dim=1)
    objects = seen.sum().clamp_min(1.0)
    loss = F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum") / objects
    for one, other in zip(mine, theirs, strict=True):
        loss = loss + ((one - other.detach()).abs().mean(dim=1) * seen).sum() / objects
    return loss


def _at_locations(levels: Sequence[Tensor]) -> Tensor:
    """Maps (B, K, H, W) of all levels as (B * locations, K)."""
    return torch.cat([level.float().permute(0, 2, 3, 1).flatten(0, 2) for level in levels])


def pixel_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence of the class distributions of pixels, mean over all; both (B, classes, H, W)."""
    mine, target = (x.float().permute(0, 2, 3, 1).flatten(0, 2) for x in (student, teacher))
    return logit_distillation(mine, target.detach())
