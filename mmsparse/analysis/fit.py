"""The keep ratio that leaves a wanted share of a network's arithmetic."""

import itertools
from collections.abc import Callable
from typing import Any

from torch import nn

from mmsparse.apis import dense_twin, find_routers

from .macs import count_macs

LOW = 0.01  # the smallest ratio that is tried
CLOSE = 0.003  # of the dense arithmetic


def fit_keep_ratio(model: nn.Module, macs: float, run: Callable[[], Any]) -> float:
    """Set one keep ratio at every place of a model such that it executes a share of its dense arithmetic.

    Args:
        model: With dynamic parts, in evaluation.
        macs: The share, in (0, 1).
        run: A function of no arguments that calls the model, on a picture of the size that matters.

    Returns:
        The ratio, which every place now has; the paper's falling ratios are not used. As near as whole locations allow.
    """
    if not 0.0 < macs < 1.0:
        raise ValueError(f"fit_keep_ratio: expected argument `macs` to be in (0, 1), but got {macs}")
    routers = find_routers(model).values()
    if not routers:
        raise ValueError(f"fit_keep_ratio: {type(model).__name__} has no dynamic part (was it built with `sparsity`?)")
    with dense_twin(model):
        dense = count_macs(model, run).total

    def share(ratio: float) -> float:
        for router in routers:
            router.set_keep_ratio([ratio] * len(router.decisions))
        return count_macs(model, run).total / dense

    low, high = LOW, 1.0 - LOW
    at_low, at_high = share(low), share(high)
    if not at_low <= macs <= at_high:
        raise ValueError(
            f"fit_keep_ratio: argument `macs`={macs} cannot be reached. Keep ratios from {low} to {high} leave "
            f"{at_low:.3f} to {at_high:.3f} of the dense arithmetic; route more of the network to get lower"
        )
    # Arithmetic is a line in the ratio, nearly: attention bends it, whole locations make it a stair.
    for halve in itertools.cycle((False, True)):
        ratio = low + (high - low) * (0.5 if halve else (macs - at_low) / (at_high - at_low))
        reached = share(ratio)
        if abs(reached - macs) <= CLOSE or high - low < 1e-3:
            return ratio
        if reached < macs:
            low, at_low = ratio, reached
        else:
            high, at_high = ratio, reached
