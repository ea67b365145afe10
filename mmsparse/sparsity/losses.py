"""Losses on what the places decided."""

from torch import Tensor


def ratio_loss(gate: Tensor, keep_ratio: float, per_image: bool = True) -> Tensor:
    """Squared distance of the measured keep ratio from its target.

    Args:
        gate: (B, N) straight-through gates.
        keep_ratio: The target.
        per_image: Hold every image to the target, as the paper does. False holds only the batch to it, so that
            images may differ.
    """
    measured = gate.float().mean(dim=1) if per_image else gate.float().mean()
    return (measured - keep_ratio).square().mean()
