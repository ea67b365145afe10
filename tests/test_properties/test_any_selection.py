"""Selections and selectors, for whatever Hypothesis thinks of."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from drawn import BATCHES, DTYPES, NONE, ONE, RATIOS, SEEDS, flags, geometries, normal, positions, uniform
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mmsparse.ops import Rows, put_together
from mmsparse.sparsity import (
    Geometry,
    GumbelSelector,
    Selection,
    ThresholdSelector,
    TopKSelector,
    Valid,
    num_keep,
    real_sizes,
    selectors,
    take_paths,
    valid_units,
)
from mmsparse.sparsity import selection as selection_module
from mmsparse.sparsity.selection import SHORT, by_counting, kept_first

SCORES = st.integers(-3, 3).map(float) | st.floats(-1e4, 1e4, width=32)


@st.composite
def masks(draw, geometry):
    """Of a batch, (B, N); the images' counts are the same or differ."""
    batch = draw(BATCHES)
    if draw(st.booleans()):
        return draw(flags(batch * geometry.units)).view(batch, -1)
    first = draw(flags(geometry.units))
    return torch.stack([first.roll(draw(st.integers(0, 9))) for _ in range(batch)])


@st.composite
def selections(draw, **of):
    geometry = draw(geometries(**of))
    mask = draw(masks(geometry))
    counts = tuple(mask.sum(dim=1).tolist())
    known = [counts, None, counts[0]] if len(set(counts)) == 1 else [counts, None]
    return Selection(geometry, mask, count=draw(st.sampled_from(known)))


@st.composite
def areas(draw, grid, batch):
    """Which units are valid, or None."""
    if draw(st.booleans()):
        return None
    sizes = tuple((draw(st.integers(1, grid[0])), draw(st.integers(1, grid[1]))) for _ in range(batch))
    mask = torch.zeros(batch, *grid, dtype=torch.bool)
    for image, (high, wide) in zip(mask, sizes, strict=True):
        image[:high, :wide] = True
    return Valid(mask.flatten(1), sizes)


@st.composite
def tables(draw, values=SCORES, padded=True):
    """What a selector is given: scores (B, N), their geometry, what is valid."""
    geometry, batch = draw(geometries(tiles=ONE, extra=NONE)), draw(BATCHES)
    number = batch * geometry.units
    scores = torch.tensor(draw(st.lists(values, min_size=number, max_size=number))).view(batch, -1)
    return scores, geometry, draw(areas(geometry.grid, batch)) if padded else None


@given(selections(), DTYPES)
def test_what_is_split_joins_again(selection, dtype):
    rows = torch.arange(2 * selection.keep_mask.numel()).view(-1, 2).to(dtype)
    assert torch.equal(selection.join(*selection.split(rows)), rows)


@given(selections())
def test_paths_of_two_precisions_join_in_the_wider(selection):
    rows = torch.arange(2.0 * selection.keep_mask.numel()).view(-1, 2)
    kept, rest = selection.split(rows)
    for joined in (selection.join(kept.half(), rest), selection.join(kept, rest.half())):
        assert joined.dtype == torch.float32 and torch.equal(joined, rows)


@given(selections())
def test_rows_are_parted_into_kept_and_rest(selection):
    mask = selection.keep_mask
    assert torch.equal(selection.keep_idx, positions(mask)) and torch.equal(selection.rest_idx, positions(~mask))
    assert selection.num_keep == [len(positions(image)) for image in mask]


@given(st.data(), st.integers(1, 70) | st.integers(250, 600), DTYPES)
def test_parts_of_any_dtype_are_put_together(data, number, dtype):
    rows = Rows.of(data.draw(flags(number)))
    whole = torch.arange(3 * number).view(number, 3).to(dtype)
    assert torch.equal(put_together(whole[rows.keep], whole[rows.rest], rows.inverse), whole)


@given(selections())
def test_exporters_see_the_same_rows(selection):
    assume(selection.count is not None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection_module, "exporting", lambda: True)
        seen = replace(selection)
        assert all(torch.equal(a, b) for a, b in zip(seen.rows, selection.rows, strict=True))
        rows = torch.arange(2.0 * seen.keep_mask.numel()).view(-1, 2)
        assert torch.equal(seen.join(*seen.split(rows)), rows)


@given(st.integers(1, 60) | st.integers(SHORT - 2, SHORT + 2) | st.integers(SHORT, 3 * SHORT), SEEDS, st.floats(0, 1))
def test_kept_ones_come_first_in_order(length, seed, share):
    """Whether a mask is sorted or searched."""
    mask = uniform(seed, length) < share
    assert torch.equal(kept_first(mask), torch.cat([positions(mask), positions(~mask)]))


@given(st.data(), st.integers(1, 90))
def test_counting_finds_what_is_true(data, number):
    mask = data.draw(flags(number))
    assert torch.equal(by_counting(mask, int(mask.sum())), positions(mask))


@given(st.data(), geometries(), SEEDS)
def test_within_is_an_intersection(data, geometry, seed):
    batch = data.draw(BATCHES)
    first, second, third = (
        Selection(geometry, data.draw(flags(batch * geometry.units)).view(batch, -1), gate)
        for gate in normal(seed, 3, batch, geometry.units)
    )
    both = first.within(second)
    assert torch.equal(both.keep_mask, first.keep_mask & second.keep_mask)
    assert torch.equal(both.within(second).keep_mask, both.keep_mask) and first.within(None) is first
    one, other = both.within(third), first.within(second.within(third))
    assert torch.equal(one.keep_mask, other.keep_mask)
    torch.testing.assert_close(one.gate, first.gate * second.gate * third.gate)
    torch.testing.assert_close(other.gate, one.gate)


@given(tables(), st.lists(RATIOS, min_size=2, max_size=4), SEEDS)
def test_what_was_dropped_never_returns(table, ratios, seed):
    """Whatever the ratios and the later scores are; and counts stay known."""
    scores, geometry, valid = table
    before = None
    for ratio in ratios:
        selection = TopKSelector().eval()(scores, geometry, ratio, before=before, valid=valid)
        assert selection.num_keep == selection.keep_mask.sum(dim=1).tolist()
        if before is not None:
            assert not (selection.keep_mask & ~before.keep_mask).any()
            assert selection.num_keep == list(map(min, before.num_keep, alone(scores, geometry, ratio, valid)))
        before, scores = selection, normal(seed, *scores.shape)


def alone(scores, geometry, ratio, valid):
    return TopKSelector().eval()(scores, geometry, ratio, valid=valid).num_keep


@given(selections(extra=NONE), st.integers(0, 3), SEEDS)
def test_extra_tokens_are_slow_and_move_nothing(selection, count, seed):
    selection = replace(selection, gate=normal(seed, *selection.keep_mask.shape))
    extended = selection.with_extra(count)
    assert extended.keep_mask[:, :count].all() and (extended.gate[:, :count] == 1).all()
    assert torch.equal(extended.keep_mask[:, count:], selection.keep_mask)
    assert torch.equal(extended.gate[:, count:], selection.gate)
    assert extended.num_keep == [number + count for number in selection.num_keep]
    assert torch.equal(extended.keep_idx, positions(extended.keep_mask))
    assert torch.equal(extended.on_picture((7, 9)), selection.on_picture((7, 9)))


@given(geometries(), st.tuples(st.integers(1, 14), st.integers(1, 14)))
def test_each_pixel_lies_in_one_unit(geometry, picture):
    units = geometry.units - geometry.extra
    each = Selection(geometry, F.pad(torch.eye(units).bool(), (geometry.extra, 0)))
    assert torch.equal(sum(each.on_picture(picture, index).int() for index in range(units)), torch.ones(picture).int())


@given(selections(), st.tuples(st.integers(1, 14), st.integers(1, 14)))
def test_a_pixel_is_slow_where_its_middle_lies_in_a_slow_unit(selection, picture):
    """In exact fractions; a middle between two units is the former's."""
    geometry = selection.geometry

    def unit(pixel, axis):
        return math.ceil(Fraction(2 * pixel + 1, 2 * picture[axis]) * geometry.size[axis] / geometry.tile) - 1

    for index, image in enumerate(selection.keep_mask[:, geometry.extra :].unflatten(1, geometry.grid).tolist()):
        expected = [[image[unit(y, 0)][unit(x, 1)] for x in range(picture[1])] for y in range(picture[0])]
        assert selection.on_picture(picture, index).tolist() == expected


def best(scores, valid, count):
    """Of one picture, the first of equals."""
    order = sorted(range(len(scores)), key=lambda unit: (not valid[unit], -scores[unit]))
    return [unit in order[:count] for unit in range(len(scores))]


@given(tables(), RATIOS)
def test_the_best_valid_units_are_kept(table, ratio):
    scores, geometry, valid = table
    selection = TopKSelector().eval()(scores, geometry, ratio, valid=valid)
    here = torch.ones_like(selection.keep_mask) if valid is None or ratio == 1 else valid.mask
    counts = [num_keep(ratio, int(image.sum())) for image in here]
    assert selection.num_keep == counts
    expected = [best(*each) for each in zip(scores.tolist(), here.tolist(), counts, strict=True)]
    assert selection.keep_mask.tolist() == expected


@st.composite
def trained(draw):
    """A selector of any kind, in evaluation."""
    selector = draw(st.sampled_from([TopKSelector, GumbelSelector, ThresholdSelector]))()
    if isinstance(selector, ThresholdSelector):
        selector.quantiles.copy_(3 * normal(draw(SEEDS), selector.LEVELS).sort().values)
    return selector.eval()


@given(trained(), tables(), RATIOS, RATIOS)
def test_a_larger_ratio_keeps_all_that_a_smaller_one_does(selector, table, one, other):
    scores, geometry, valid = table
    few, many = (selector(scores, geometry, ratio, valid=valid).keep_mask for ratio in sorted([one, other]))
    assert not (few & ~many).any()


@given(st.data(), RATIOS, geometries(tiles=ONE, extra=NONE))
def test_permuted_scores_are_chosen_alike(data, ratio, geometry):
    order, where = (torch.tensor(data.draw(st.permutations(range(geometry.units)))) for _ in range(2))
    one, other = (
        TopKSelector().eval()(scores.float().unsqueeze(0), geometry, ratio).keep_mask[0]
        for scores in (order, order[where])
    )
    assert torch.equal(other, one[where])


@given(
    tables(values=st.integers(-3, 3).map(float)),
    RATIOS,
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=7, max_size=7, unique=True).map(sorted),
)
def test_rising_functions_of_scores_choose_alike(table, ratio, rising):
    scores, geometry, valid = table
    one, other = (
        TopKSelector().eval()(values, geometry, ratio, valid=valid).keep_mask
        for values in (scores, torch.tensor(rising)[scores.long() + 3])
    )
    assert torch.equal(one, other)


@given(trained(), tables(), RATIOS)
def test_a_picture_is_judged_without_its_batch_mates(selector, table, ratio):
    scores, geometry, valid = table
    together = selector(scores, geometry, ratio, valid=valid)
    for index in range(len(scores)):
        own = None if valid is None else Valid(valid.mask[index : index + 1], valid.sizes[index : index + 1])
        single = selector(scores[index : index + 1], geometry, ratio, valid=own)
        assert torch.equal(single.keep_mask[0], together.keep_mask[index])
        assert single.num_keep == together.num_keep[index : index + 1]


@given(tables(), RATIOS, st.floats(0, 2))
def test_in_training_counts_are_exact_and_gates_are_the_mask(table, ratio, noise):
    scores, geometry, valid = table
    selection = TopKSelector().train()(scores.requires_grad_(), geometry, ratio, noise, valid=valid)
    assert selection.num_keep == selection.keep_mask.sum(dim=1).tolist() == alone(scores, geometry, ratio, valid)
    assert torch.equal(selection.gate, selection.keep_mask.float()) and selection.gate.requires_grad
    assert valid is None or ratio == 1 or not selection.keep_mask[~valid.mask].any()


@given(tables(values=SCORES | st.sampled_from([math.nan, math.inf, -math.inf])), RATIOS)
@example(
    (
        torch.tensor([[1.0, 0.0, -math.inf, 0.0]]),
        Geometry((2, 2)),
        Valid(torch.tensor([[True, False, True, False]]), ((2, 1),)),
    ),
    0.99,
)
def test_counts_are_exact_and_of_valid_units_whatever_overflows(table, ratio):
    scores, geometry, valid = table
    selection = TopKSelector().eval()(scores, geometry, ratio, valid=valid)
    assert selection.keep_mask.sum(dim=1).tolist() == selection.num_keep
    assert selection.num_keep == alone(torch.zeros_like(scores), geometry, ratio, valid)
    assert valid is None or ratio == 1 or not selection.keep_mask[~valid.mask].any()


@given(tables(), RATIOS, RATIOS)
def test_exporters_find_the_same_best_by_halving(table, first, ratio):
    """Also where less is left than may be kept."""
    scores, geometry, valid = table
    before = TopKSelector().eval()(-scores, geometry, first, valid=valid)
    scores = scores.round()  # farther apart than what is left of their distance
    one = TopKSelector().eval()(scores, geometry, ratio, before=before, valid=valid)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selectors, "exporting", lambda: True)
        patch.setattr(selectors, "LONG", 0)
        other = TopKSelector().eval()(scores, geometry, ratio, before=before, valid=valid)
    assert torch.equal(one.keep_mask, other.keep_mask) and one.num_keep == other.num_keep


@given(st.lists(tables(), min_size=1, max_size=3), st.floats(0.01, 1.0), st.lists(RATIOS, min_size=2))
def test_thresholds_fall_with_the_ratio(batches, momentum, ratios):
    """Whatever a training has seen; and they lie between the scores that it saw."""
    selector = ThresholdSelector(momentum=momentum).train()
    for scores, geometry, valid in batches:
        selector(scores, geometry, 0.5, valid=valid)
    thresholds = torch.stack([selector.threshold(ratio) for ratio in sorted(ratios)])
    assert (thresholds.diff() <= 1e-3).all()
    seen = torch.cat([scores.flatten() if valid is None else scores[valid.mask] for scores, _, valid in batches])
    assert seen.min() - 1e-3 <= thresholds.min() and thresholds.max() <= seen.max() + 1e-3


@given(st.integers(2, 400), SEEDS, RATIOS)
def test_a_fitted_threshold_keeps_its_share(number, seed, ratio):
    scores, geometry, selector = normal(seed, 1, number), Geometry((1, number)), ThresholdSelector().eval()
    with selector.fit():
        selector(scores, geometry, 0.5)
    kept = selector(scores, geometry, ratio).keep_mask.sum().item()
    assert abs(kept - ratio * number) <= number / 64 + 1.5  # between two of its levels


@given(st.integers(1, 5), SEEDS, st.randoms(use_true_random=False))
def test_a_fit_is_of_all_scores_in_any_batches(cuts, seed, chance):
    scores = normal(seed, 90)
    found = []
    for order, at in ((range(90), []), (chance.sample(range(90), 90), sorted(chance.sample(range(1, 90), cuts)))):
        selector = ThresholdSelector().eval()
        with selector.fit():
            for batch in scores[list(order)].tensor_split(at):
                selector(batch.unsqueeze(0), Geometry((1, len(batch))), 0.5)
        found.append(selector.quantiles)
    assert torch.equal(*found)


@given(geometries(extra=NONE), st.tuples(st.integers(1, 30), st.integers(1, 30)), st.data())
def test_units_are_valid_where_they_hold_a_real_pixel(geometry, padded, data):
    """Of each unit's part of a padded picture, in exact fractions."""
    sizes = data.draw(st.lists(st.tuples(*(st.integers(1, side) for side in padded)), min_size=1, max_size=3))
    with real_sizes(sizes, padded):
        found = valid_units(geometry, torch.zeros(len(sizes), 1))
    rows, columns = (
        [Fraction(place * geometry.tile * padded[axis], geometry.size[axis]) for place in range(geometry.grid[axis])]
        for axis in (0, 1)
    )
    expected = [[[y < high and x < wide for x in columns] for y in rows] for high, wide in sizes]
    if found is None:
        assert all(flag for image in expected for row in image for flag in row)
    else:
        assert found.mask.unflatten(1, geometry.grid).tolist() == expected
        assert found.counts == tuple(found.mask.sum(dim=1).tolist())


@given(selections(extra=NONE), SEEDS)
def test_hard_gates_mix_two_paths(selection, seed):
    """Of ``gate * slow + (1 - gate) * fast``, the values and the gradients of all that takes part."""
    number = selection.keep_mask.numel()
    rows, slow, fast, weight = normal(seed, number, 4), normal(seed + 1, 4, 4), normal(seed + 2, 4, 4), normal(seed, 4)
    given_all = [rows, slow, fast, selection.keep_mask.float()]

    def mixed(rows, slow, fast, gate):
        gate = gate.view(-1, 1)
        return gate * (rows @ slow) + (1 - gate) * (rows @ fast)

    def routed(rows, slow, fast, gate):
        routing = replace(selection, gate=gate)
        return take_paths(rows, routing, lambda kept, _: kept @ slow, lambda rest, _: rest @ fast)

    found = []
    for run in (mixed, routed):
        inputs = [each.clone().requires_grad_() for each in given_all]
        out = run(*inputs)
        found.append([out, *torch.autograd.grad((out * weight).sum(), inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
