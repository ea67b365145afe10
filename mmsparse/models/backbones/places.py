"""Where a backbone decides: stages and blocks, and what one keep ratio means for each of them."""

from collections.abc import Sequence

from mmsparse.sparsity.budget import EPS, check_keep_ratio, given_ratios

Place = tuple[int, int]  # (stage, block) where a decision is taken

EVERY_STAGE = "every_stage"
STEP = 0.2  # between successive places of a stage


def paper_places(depths: Sequence[int], deep_step: int) -> list[Place]:
    """Where the paper decides: three times in the third stage, at each block, or at every so many of a deep stage."""
    step = deep_step if len(depths) > 2 and depths[2] >= 18 else 1
    return [(2, step), (2, 2 * step), (2, 3 * step)]


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


def routed_blocks(places: Sequence[Place], depths: Sequence[int]) -> list[Place]:
    """Every block behind the first place of its stage."""
    first = {stage: min(block for s, block in places if s == stage) for stage, _ in places}
    return [(stage, block) for stage in sorted(first) for block in range(first[stage], depths[stage])]


def check_default_places(places: Sequence[Place], depths: Sequence[int], plain: bool) -> None:
    if places and all(stage < len(depths) and block < depths[stage] for stage, block in places):
        return
    fitting = [(stage, min(1, depth - 1)) for stage, depth in enumerate(depths)]  # any keep ratio fits one a stage
    raise ValueError(
        f"The default places of the argument `places`, which are the paper's {list(places) or 'three'}, do not fit a "
        f"network with {list(depths)} blocks. Name places, such as "
        f"places={[block for _, block in fitting] if plain else fitting}"
    )


def check_places(places: Sequence[Place], depths: Sequence[int], plain: bool) -> tuple[Place, ...]:
    allowed = f"(stage, block) pairs with stage < {len(depths)} and block < {list(depths)} of that stage"
    if plain:
        allowed = f"block numbers < {depths[0]}, or pairs (0, block)"
    if isinstance(places, str) or not isinstance(places, Sequence):
        word = "" if plain else f"{EVERY_STAGE!r} or "
        kind = ValueError if isinstance(places, str) else TypeError
        raise kind(f"Expected argument `places` to be {word}{allowed}, but got {places!r}")
    if plain:
        places = [(0, place) if isinstance(place, int) else place for place in places]
    pairs = []
    for place in places:
        if not isinstance(place, Sequence) or len(place) != 2 or not all(type(n) is int for n in place):
            raise TypeError(f"Expected argument `places` to hold {allowed}, but got {place!r}")
        stage, block = place
        if not (0 <= stage < len(depths) and 0 <= block < depths[stage]):
            raise ValueError(f"Expected argument `places` to hold {allowed}, but got {tuple(place)}")
        pairs.append((stage, block))
    if not pairs or sorted(set(pairs)) != pairs:
        raise ValueError(f"Expected argument `places` to hold distinct ascending {allowed}, but got {pairs}")
    return tuple(pairs)
