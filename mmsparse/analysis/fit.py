"""The keep ratios that leave a wanted share of a network's arithmetic."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from mmsparse.apis import budget, dense_twin, find_routers, get_keep_ratio, set_keep_ratio

from .macs import count_macs

LOW, HIGH = 0.01, 0.99  # the largest ratio is never less, none is more
CLOSE = 0.003  # of the dense arithmetic


def fit_keep_ratio(
    model: nn.Module, macs: float, run: Callable[[], Any], parts: Sequence[str] | None = None
) -> dict[str, float]:
    """Scale the keep ratios of a model such that it executes a share of its dense arithmetic.

    Args:
        model: With dynamic parts, in evaluation.
        macs: The share, in (0, 1).
        run: A function of no arguments that calls the model, on a picture of the size that matters.
        parts: Names of the parts to scale, all if not given; others keep their ratios.

    Returns:
        The ratios, by the names that logs use; every place now has its own. They stand to each other as they did
        before, but for those that would exceed 0.99. As near as whole locations allow. The model has them in the end;
        until then, and if there are none, it is as it was.
    """
    if not 0.0 < macs < 1.0:
        raise ValueError(f"fit_keep_ratio: expected argument `macs` to be in (0, 1), but got {macs}")
    routers = find_routers(model)
    before = {part: router.keep_ratio for part, router in routers.items() if parts is None or part in parts}
    if not before:
        raise ValueError(f"fit_keep_ratio: {type(model).__name__} has no dynamic part (was it built with `sparsity`?)")
    with dense_twin(model):
        dense = count_macs(model, run).total

    def scaled(scale: float) -> dict[str, list[float]]:
        return {part: [min(ratio * scale, HIGH) for ratio in ratios] for part, ratios in before.items()}

    def share(scale: float) -> float:
        with budget(scaled(scale), model):
            return count_macs(model, run).total / dense

    every = [ratio for ratios in before.values() for ratio in ratios]
    low, high = LOW / max(every), HIGH / min(every)
    at_low, at_high = share(low), share(high)
    if not at_low <= macs <= at_high:
        raise ValueError(
            f"fit_keep_ratio: argument `macs`={macs} cannot be reached. Keep ratios from {LOW} to {HIGH} leave "
            f"{at_low:.3f} to {at_high:.3f} of the dense arithmetic; route more of the network to get lower"
        )
    # Arithmetic is a line in the ratios, nearly: attention bends it, whole locations make it a stair.
    for halve in itertools.cycle((False, True)):
        scale = low + (high - low) * (0.5 if halve else (macs - at_low) / (at_high - at_low))
        reached = share(scale)
        if abs(reached - macs) <= CLOSE or (high - low) * max(every) < 1e-3:
            set_keep_ratio(model, scaled(scale))
            return get_keep_ratio(model)
        if reached < macs:
            low, at_low = scale, reached
        else:
            high, at_high = scale, reached
