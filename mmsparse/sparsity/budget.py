"""How much may go slow: keep ratios, exact counts, and what a schedule makes of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

EPS = 1e-6  # 0.7 - 0.2 is 0.49999999999999994; half a location must still round up
SHARED = "a number, one for each place, or dict(network=0.6, size=(H, W)) of what the network shall execute"


def check_keep_ratio(keep_ratio: float) -> float:
    """Return the ratio as a float, or say what is allowed."""
    if isinstance(keep_ratio, Mapping):
        raise TypeError(
            f"Argument `keep_ratio`={dict(keep_ratio)} is a budget of the whole network, which mmsparse's commands "
            "work out when they read a config. Other tools can take the config that `mmsparse train` writes: numbers"
        )
    if isinstance(keep_ratio, bool) or not isinstance(keep_ratio, int | float):
        raise TypeError(f"Expected argument `keep_ratio` to be a number in (0, 1], but got {keep_ratio!r}")
    if not 0.0 < keep_ratio <= 1.0:
        raise ValueError(f"Expected argument `keep_ratio` to be in (0, 1], but got {keep_ratio}")
    return float(keep_ratio)


def given_ratios(keep_ratio: float | Sequence[float], places: Sequence[Any]) -> tuple[float, ...] | None:
    """One ratio for each place, None if a single number was given."""
    if not isinstance(keep_ratio, Sequence) or isinstance(keep_ratio, str):
        return None
    if len(keep_ratio) != len(places):
        raise ValueError(
            f"Expected argument `keep_ratio` to be one number or one for each of the {len(places)} places "
            f"{list(places)}, but got {len(keep_ratio)} numbers: {list(keep_ratio)}"
        )
    return tuple(check_keep_ratio(ratio) for ratio in keep_ratio)


def num_keep(keep_ratio: float, locations: int) -> int:
    """Exact number of slow locations: round half up, safe against float error."""
    return min(locations, math.floor(keep_ratio * locations + 0.5 + EPS))


def anneal(target: float, progress: float) -> float:
    """The keep ratio on the way from 1.0 (progress 0) to its target (progress 1)."""
    return 1.0 + (target - 1.0) * min(max(progress, 0.0), 1.0)
