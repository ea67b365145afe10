"""Counts, ratios, budgets and the search for them, for whatever Hypothesis thinks of."""

import itertools
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from drawn import RATIOS, one_in
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from mmsparse.analysis import count_macs, fit_keep_ratio
from mmsparse.analysis.fit import CLOSE, HIGH
from mmsparse.apis import budget, get_keep_ratio, set_keep_ratio
from mmsparse.models.backbones.places import expand_keep_ratio
from mmsparse.sparsity import Dial, Tunable, budgets, check_keep_ratio, num_keep
from mmsparse.sparsity.budget import anneal

LOCATIONS = st.integers(0, 50) | st.integers(0, 10**6)


@given(RATIOS, RATIOS, LOCATIONS)
def test_counts_never_fall_with_the_ratio_and_grow_by_one_at_most_with_a_location(one, other, locations):
    assert num_keep(min(one, other), locations) <= num_keep(max(one, other), locations)
    counts = [num_keep(one, locations + more) for more in range(12)]
    assert all(more - less in (0, 1) for less, more in itertools.pairwise(counts))


@given(RATIOS, LOCATIONS)
def test_counts_are_within_half_a_location(ratio, locations):
    assert 0 <= num_keep(ratio, locations) <= locations == num_keep(1.0, locations)
    assert abs(num_keep(ratio, locations) - Fraction(ratio) * locations) <= Fraction(1, 2) + Fraction(1, 10**5)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 9999).map(lambda number: 100 * number + 50))
def test_counts_of_hundredths_round_half_up(one, other, locations):
    """Though a difference of ratios is a little more or less."""
    more, less = max(one, other), min(one, other)
    assert num_keep(more / 100 - less / 100, locations) == ((more - less) * locations * 2 + 100) // 200


@given(st.integers(1, 10**6).flatmap(lambda number: st.tuples(st.integers(0, number), st.just(number))))
def test_a_share_of_whole_locations_is_kept_exactly(share):
    kept, locations = share
    assert num_keep(kept / locations, locations) == kept


@given(RATIOS, st.lists(st.floats(-2, 3), min_size=2, max_size=5))
def test_annealing_falls_from_one_to_its_target(target, progress):
    ratios = [anneal(target, each) for each in sorted(progress)]
    assert ratios == sorted(ratios, reverse=True) and all(target - 1e-9 <= ratio <= 1.0 for ratio in ratios)
    assert anneal(target, min(0.0, *progress)) == 1.0
    assert anneal(target, max(1.0, *progress)) == pytest.approx(target, rel=1e-9)


@given(st.floats() | st.integers(-3, 3) | st.booleans() | st.none() | st.text(max_size=3))
def test_ratios_are_numbers_above_zero_and_up_to_one(ratio):
    if type(ratio) not in (int, float):
        with pytest.raises(TypeError, match="keep_ratio"):
            check_keep_ratio(ratio)
    elif 0 < ratio <= 1:
        assert check_keep_ratio(ratio) == ratio and type(check_keep_ratio(ratio)) is float
    else:
        with pytest.raises(ValueError, match=r"in \(0, 1\]"):
            check_keep_ratio(ratio)


@given(RATIOS | st.sampled_from([0.2, 0.4, 0.6]), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.booleans())
def test_ratios_of_places_fall_within_a_stage_or_are_refused(ratio, depths, geometric):
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    stages = [stage for stage, _ in places]
    below = any(round(ratio - 0.2 * (stages.count(stage) - 1), 6) <= 0 for stage in stages)
    if ratio < 1 and below and not geometric:
        with pytest.raises(ValueError, match="leaves"):
            expand_keep_ratio(ratio, places)
        return
    found = expand_keep_ratio(ratio, places, geometric)
    assert expand_keep_ratio(found, places) == found and len(found) == len(places)
    assert found[0] == pytest.approx(ratio, abs=1e-6) and all(0 < each <= 1 for each in found)
    for (one, first), (other, second) in itertools.pairwise(zip(found, stages, strict=True)):
        step = one * (1 - ratio) if geometric else 0.2 * (ratio < 1)
        assert other == pytest.approx(one - step if geometric or first == second else ratio, abs=2e-6)


class Lamps(Tunable):
    def __init__(self, part, number):
        super().__init__()
        self.lamps = nn.ModuleList(Dial(f"{part}{place}") for place in range(number))
        self.set_keep_ratio(1.0)

    @property
    def dials(self):
        return list(self.lamps)


class House(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.neck, self.bbox_head = Lamps("b", 2), Lamps("n", 1), Lamps("h", 1)


NAMES = ["b0", "b1", "n0", "h0"]
OF_NAMES = st.fixed_dictionaries(dict.fromkeys(NAMES, RATIOS))
BLOCKS = st.lists(st.tuples(st.dictionaries(st.sampled_from(NAMES), RATIOS), st.none() | RATIOS), max_size=4)


def of_parts(ratios):
    return dict(backbone=[ratios["b0"], ratios["b1"]], neck=[ratios["n0"]], bbox_head=ratios["h0"])


@given(OF_NAMES)
def test_budgets_that_are_set_are_those_one_gets(ratios):
    house = House()
    set_keep_ratio(house, of_parts(ratios))
    assert get_keep_ratio(house) == ratios
    assert house.backbone.keep_ratio == (ratios["b0"], ratios["b1"])
    set_keep_ratio(house, dict(backbone=ratios["n0"], head=ratios["b0"]))
    assert get_keep_ratio(house) == dict(b0=ratios["n0"], b1=ratios["n0"], n0=ratios["n0"], h0=ratios["b0"])


@given(OF_NAMES, BLOCKS, st.booleans())
def test_the_innermost_budget_holds_until_its_block_ends(own, blocks, fails):
    house = House()
    set_keep_ratio(house, of_parts(own))
    dials = {dial.name: dial for part in (house.backbone, house.neck, house.bbox_head) for dial in part.dials}

    def expected(depth):
        now = own
        for ratios, number in blocks[:depth]:
            now = {**(now if number is None else dict.fromkeys(NAMES, number)), **ratios}
        return now

    def enter(depth):
        assert get_keep_ratio(house) == expected(depth)
        if depth == len(blocks):
            if fails:
                raise KeyError
            return
        ratios, number = blocks[depth]
        try:
            with budgets({dials[name]: ratio for name, ratio in ratios.items()}, number):
                enter(depth + 1)
        finally:
            assert get_keep_ratio(house) == expected(depth)

    if fails:
        with pytest.raises(KeyError):
            enter(0)
    else:
        enter(0)
    assert get_keep_ratio(house) == own


@given(OF_NAMES, OF_NAMES, RATIOS)
def test_a_budget_of_a_call_is_what_setting_it_would_be(own, other, number):
    house, twin = House(), House()
    set_keep_ratio(house, of_parts(own))
    for ratio in (of_parts(other), number, dict(backbone=number), dict(head=number, neck=[number])):
        set_keep_ratio(twin, of_parts(own))
        set_keep_ratio(twin, ratio)
        with budget(ratio, house):
            assert get_keep_ratio(house) == get_keep_ratio(twin)
    with budget(number):
        assert set(get_keep_ratio(house).values()) == {number}
    assert get_keep_ratio(house) == own


ROWS = 1000


class Hall(nn.Module):
    """Multiplies a share of its rows for each dial, by a matrix of another width, and all of them by one more."""

    def __init__(self, widths, ratios):
        super().__init__()
        self.widths, self.backbone = widths, Lamps("b", len(ratios))
        self.backbone.set_keep_ratio(ratios)

    def forward(self):
        rows = torch.empty(ROWS, 1, device="meta")
        for width, ratio in zip(self.widths, [1.0, *self.backbone.keep_ratio], strict=True):
            F.linear(rows[: num_keep(ratio, ROWS)], torch.empty(width, 1, device="meta"))

    def share(self):
        return count_macs(self, self).total / (ROWS * sum(self.widths))


@st.composite
def halls(draw):
    """With its ratios, and what scales them."""
    ratios = draw(st.lists(st.floats(0.1, 1.0), min_size=1, max_size=3))
    number = len(ratios) + 1
    widths = draw(st.lists(st.integers(1, 50), min_size=number, max_size=number))
    return Hall(widths, ratios), ratios


def scaled(ratios, largest):
    """Until the largest is that one; none beyond what is fitted."""
    return [min(ratio * largest / max(ratios), HIGH) for ratio in ratios]


@one_in(2)
@given(halls(), st.floats(0.02, 3.0))
def test_fitted_ratios_leave_the_wanted_arithmetic_and_stay_in_proportion(hall, largest):
    model, ratios = hall
    with budget(scaled(ratios, largest), model):
        wanted = model.share()
    found = list(fit_keep_ratio(model, wanted, model).values())
    assert model.share() == pytest.approx(wanted, abs=CLOSE)
    assert list(model.backbone.keep_ratio) == found
    own = max(one / other for one, other in zip(found, ratios, strict=True))
    assert found == pytest.approx(scaled(ratios, own * max(ratios)))


@one_in(3)
@given(halls(), st.lists(st.floats(0.02, 3.0), min_size=2, max_size=2).map(sorted))
def test_more_arithmetic_is_never_fitted_by_lower_ratios(hall, largest):
    model, ratios = hall
    wanted, found = [], []
    for each in largest:
        with budget(scaled(ratios, each), model):
            wanted.append(model.share())
    assume(wanted[1] - wanted[0] > 2 * CLOSE)
    for share in wanted:
        model.backbone.set_keep_ratio(ratios)
        found.append(list(fit_keep_ratio(model, share, model).values()))
    assert all(low <= high for low, high in zip(*found, strict=True)) and found[0] != found[1]
