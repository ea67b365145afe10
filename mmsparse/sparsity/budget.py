"""How much may go slow: keep ratios per place, exact counts, and what a schedule makes of them."""

import math
from collections.abc import Sequence
from typing import Any

Place = tuple[int, int]  # (stage, block) where a decision is taken

STEP = 0.2  # between successive places of a stage
EPS = 1e-6  # 0.7 - 0.2 is 0.49999999999999994; half a location must still round up


def paper_places(depths: Sequence[int], deep_step: int) -> list[Place]:
    """Where the paper decides: three times in the third stage, at each block, or at every so many of a deep stage."""
    step = deep_step if len(depths) > 2 and depths[2] >= 18 else 1
    return [(2, step), (2, 2 * step), (2, 3 * step)]


def check_keep_ratio(keep_ratio: float) -> float:
    """Return the ratio as a float, or say what is allowed."""
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


def expand_keep_ratio(
    keep_ratio: float | Sequence[float], places: Sequence[Place], geometric: bool = False
) -> tuple[float, ...]:
    """One ratio for each place.

    A single number r follows the paper. In hierarchical backbones the first place of a stage keeps r, the next
    r - 0.2, then r - 0.4. In plain ones (``geometric``) successive places keep r, r^2, r^3. r = 1 keeps everything
    everywhere. A sequence gives one ratio per place, in the order of the places.
    """
    if (given := given_ratios(keep_ratio, places)) is not None:
        return given
    first = check_keep_ratio(keep_ratio)
    if first == 1.0:
        return (1.0,) * len(places)
    if geometric:
        return tuple(max(round(first ** (index + 1), 6), EPS) for index in range(len(places)))
    ratios = []
    for index, (stage, block) in enumerate(places):
        order = sum(1 for earlier_stage, _ in places[:index] if earlier_stage == stage)
        ratio = round(first - STEP * order, 6)
        if ratio <= 0.0:
            raise ValueError(
                f"Argument `keep_ratio`={keep_ratio} leaves {ratio} for the place (stage {stage}, block {block}), "
                f"because successive places of a stage keep r, r - {STEP}, r - {2 * STEP}. "
                f"Give one ratio for each of the {len(places)} places, such as keep_ratio={[first] * len(places)}"
            )
        ratios.append(ratio)
    return tuple(ratios)


def num_keep(keep_ratio: float, locations: int) -> int:
    """Exact number of slow locations: round half up, safe against float error."""
    return min(locations, math.floor(keep_ratio * locations + 0.5 + EPS))


def anneal(target: float, progress: float) -> float:
    """The keep ratio on the way from 1.0 (progress 0) to its target (progress 1)."""
    return 1.0 + (target - 1.0) * min(max(progress, 0.0), 1.0)
