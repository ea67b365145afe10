"""Laws of what has an algebra, for whatever Hypothesis thinks of.

``pytest tests/test_properties.py --hypothesis-profile=long`` tries thousands of new examples of each.
"""

import contextlib
import io
import itertools
import json
import math
import re
import tempfile
from argparse import Namespace
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from operator import sub
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import MODELS
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

import mmsparse
from mmsparse import files
from mmsparse.analysis import count_macs, fit_keep_ratio
from mmsparse.analysis.fit import CLOSE, HIGH
from mmsparse.analysis.intervals import PictureAP, difference
from mmsparse.apis import budget, get_keep_ratio, set_keep_ratio
from mmsparse.cli.commands import predict
from mmsparse.cli.launch import share_of
from mmsparse.datasets.board_style import MARGIN, STYLES
from mmsparse.datasets.boards import render_board
from mmsparse.datasets.pictures import SPLITS, Picture, picture_seed
from mmsparse.datasets.scenes import render_scene
from mmsparse.datasets.writer import DatasetArgs, instances_file, run_lengths, write_dataset
from mmsparse.deploy import calibration, rivals
from mmsparse.deploy.calibration import BIN, CERTAIN, Group, Measured, OutOfReachError, levelled, solve, trade_off
from mmsparse.deploy.rivals import Results, Row, smaller
from mmsparse.engine import latest_checkpoint
from mmsparse.engine.seed_hook import SeedHook
from mmsparse.models.backbones.places import expand_keep_ratio
from mmsparse.models.convert import hugging_face, layouts, releases
from mmsparse.models.convert.segmenters import HEADS
from mmsparse.ops import (
    Rows,
    from_tiles,
    map_rows,
    put_tiles,
    put_together,
    sparse_conv2d,
    sparse_conv2d_reference,
    tile_means,
    tiles_at,
    to_tiles,
)
from mmsparse.ops.tiles import window
from mmsparse.sparsity import (
    Dial,
    Geometry,
    GumbelSelector,
    Selection,
    ThresholdSelector,
    TopKSelector,
    Tunable,
    Valid,
    budgets,
    check_keep_ratio,
    num_keep,
    ratio_loss,
    real_sizes,
    score_loss,
    selectors,
    take_paths,
    unit_features,
    valid_units,
)
from mmsparse.sparsity import selection as selection_module
from mmsparse.sparsity.budget import anneal
from mmsparse.sparsity.gain import GAIN, STAKE, gain_target
from mmsparse.sparsity.losses import (
    detection_distillation,
    feature_distillation,
    logit_distillation,
    pixel_distillation,
)
from mmsparse.sparsity.selection import SHORT, by_counting, kept_first

if settings.get_current_profile_name() == "default":
    settings.load_profile("ci")


def one_in(number):
    """So many fewer examples, where one takes long or there are many cases."""
    return settings(max_examples=max(settings().max_examples // number, 1))


SIDES, TILES, BATCHES = st.integers(1, 6), st.integers(1, 4), st.integers(1, 3)
EXTRA, NONE, ONE = st.integers(0, 2), st.just(0), st.just(1)
SEEDS = st.integers(0, 2**32 - 1)
RATIOS = st.floats(1e-3, 1.0) | st.sampled_from([0.5, 0.7 - 0.2, 1.0])
SCORES = st.integers(-3, 3).map(float) | st.floats(-1e4, 1e4, width=32)
DTYPES = st.sampled_from([
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64),
])  # fmt: skip


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def uniform(seed, *shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def flags(number):
    """Boolean tensors of so many entries."""
    shares = st.sampled_from([0.5, 0.2, 0.8, 0.0, 1.0])
    return st.builds(lambda seed, share: uniform(seed, number) < share, SEEDS, shares)


def positions(mask):
    return torch.tensor([place for place, flag in enumerate(mask.flatten().tolist()) if flag], dtype=torch.long)


@st.composite
def geometries(draw, tiles=TILES, extra=EXTRA):
    return Geometry((draw(SIDES), draw(SIDES)), draw(tiles), draw(extra))


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


@st.composite
def maps(draw):
    """(B, C, H, W) of numbers that are all different, and the side of a tile."""
    shape = (draw(BATCHES), draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    return torch.arange(1.0, 1.0 + math.prod(shape)).view(shape), draw(st.integers(1, 5))


def tiles_of(x, tile):
    """Of each tile, its locations beyond the border, too, (tile, tile, C)."""
    height, width = (-(-side // tile) * tile for side in x.shape[2:])
    x = F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2])).permute(0, 2, 3, 1)
    places = itertools.product(x, range(0, height, tile), range(0, width, tile))
    return torch.stack([image[y : y + tile, x : x + tile] for image, y, x in places])


@given(maps(), DTYPES)
def test_tiles_become_their_map_again(cut, dtype):
    x, tile = cut[0].to(dtype), cut[1]
    assert torch.equal(from_tiles(to_tiles(x, tile), x.shape, tile), x)


@given(maps())
def test_tiles_are_parts_of_their_map(cut):
    x, tile = cut
    expected = tiles_of(x, tile)
    assert torch.equal(to_tiles(x, tile), expected.flatten(1))
    chosen = torch.arange(len(expected)).flip(0)[::2]
    inside = tiles_of(torch.ones_like(x), tile)[chosen].flatten(1) > 0
    assert torch.equal(tiles_at(x, chosen, tile)[inside], expected[chosen].flatten(1)[inside])


@given(maps(), st.floats(-1e3, 1e3, width=32), st.data())
def test_a_constants_tiles_have_its_mean(cut, value, data):
    """Whatever is real, and whatever lies where nothing is."""
    x, tile = torch.full_like(cut[0], value), cut[1]
    real = data.draw(flags(x[:, 0].numel())).view(len(x), 1, *x.shape[2:]).clone()
    real[:, :, ::tile, ::tile] = True
    means = tile_means(torch.where(real, x, torch.inf), tile, real)
    torch.testing.assert_close(means, torch.full_like(means, value), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tile_means(x, tile), means, rtol=1e-5, atol=1e-5)


@given(maps(), st.data())
def test_a_tiles_mean_is_that_of_its_real_locations(cut, data):
    x, tile = cut
    real = data.draw(flags(x[:, 0].numel())).view(len(x), 1, *x.shape[2:])
    pairs = zip(tiles_of(x.double(), tile), tiles_of(real.double(), tile), strict=True)
    expected = torch.stack([(tile * here).sum(dim=(0, 1)) / here.sum().clamp_min(1) for tile, here in pairs])
    torch.testing.assert_close(tile_means(x, tile, real), expected.float(), rtol=1e-5, atol=1e-5)


@given(geometries(extra=NONE), BATCHES, SEEDS, st.data())
def test_what_scorers_see_of_a_tile_is_the_mean_of_what_is_real(geometry, batch, seed, data):
    x = normal(seed, batch, 3, *geometry.size)
    sizes = [tuple(data.draw(st.integers(1, side)) for side in geometry.size) for _ in range(batch)]
    with real_sizes(sizes, geometry.size):
        valid = valid_units(geometry.locations, x)
        found = unit_features(x, geometry)
    real = torch.ones(batch, 1, *geometry.size).bool() if valid is None else valid.mask.view(batch, 1, *geometry.size)
    if geometry.tile > 1:
        torch.testing.assert_close(found.flatten(0, 1), tile_means(x, geometry.tile, real), rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(found.flatten(0, 1), map_rows(x))


@given(maps(), st.integers(0, 3), st.data())
def test_windows_are_parts_of_a_padded_map(cut, halo, data):
    x, tile = cut
    number = len(tiles_of(x, tile))
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, number - 1), min_size=1, max_size=6)))
    where, outside = window((x.shape[2], x.shape[3]), chosen, tile, halo)
    side = tile + 2 * halo
    found = map_rows(x)[where].masked_fill(outside.unsqueeze(1), 0).view(-1, side, side, x.shape[1])
    beyond = halo + tile
    padded = F.pad(x, (halo, beyond, halo, beyond)).permute(0, 2, 3, 1)
    wide = -(-x.shape[3] // tile)
    high = -(-x.shape[2] // tile)
    for part, index in zip(found, chosen.tolist(), strict=True):
        y, left = index // wide % high * tile, index % wide * tile
        assert torch.equal(part, padded[index // (high * wide), y : y + side, left : left + side])


@given(maps(), st.data())
def test_tiles_that_are_put_change_nothing_else(cut, data):
    x, tile = cut
    rows = Rows.of(data.draw(flags(len(tiles_of(x, tile)))))
    own = to_tiles(x, tile)
    assert torch.equal(put_tiles(x, own[rows.keep], rows, tile), x)
    expected = own.clone()
    expected[rows.keep] *= -1
    assert torch.equal(put_tiles(x, expected[rows.keep], rows, tile), from_tiles(expected, x.shape, tile))


@given(maps(), SEEDS, st.data())
def test_a_convolution_at_tiles_is_the_dense_one_there(cut, seed, data):
    x, tile = cut[0].double(), cut[1]
    keep = positions(data.draw(flags(len(tiles_of(x, tile)))))
    inside = (tiles_of(torch.ones_like(x[:, :1]), tile)[keep] > 0).expand(-1, -1, -1, 4).flatten(1)
    for kernel, dilation in itertools.product((1, 3, 5), (1, 2, 3)):
        weight, bias = normal(seed, 4, x.shape[1], kernel, kernel).double(), normal(seed, 4).double()
        found, expected = (
            run(x, weight, bias, keep, tile, dilation)[inside] for run in (sparse_conv2d, sparse_conv2d_reference)
        )
        torch.testing.assert_close(found, expected)


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


DENSE = 0.5  # metric of the dense network


@st.composite
def exact_groups(draw):
    """Groups that save whole bins, and have no ratios between those that were measured; and their metric, or none."""
    groups, known = [], draw(st.booleans())
    for name in range(draw(st.integers(1, 3))):
        saved = sorted(draw(st.lists(st.integers(0, 600), min_size=1, max_size=3)), reverse=True)
        first, metrics = draw(st.integers(1, 15)), st.integers(0, 60).map(lambda hundredths: hundredths / 100)
        costs = [(round(0.05 * (first + place), 2), 1 - BIN * bins) for place, bins in enumerate(saved)]
        at = [Measured(ratio, cost, draw(metrics) if known else None, cost) for ratio, cost in costs]
        groups.append(Group([f"p{name}"], at))
    return groups, DENSE if known else None


@st.composite
def any_groups(draw):
    """Groups of whatever a noisy machine may say."""
    groups, known = [], draw(st.booleans())
    for name in range(draw(st.integers(1, 3))):
        ratios = sorted(draw(st.sets(st.floats(0.02, 0.98), min_size=1, max_size=4)))
        shares, errors = st.floats(0.4, 1.1), st.floats(0, 0.05)
        metrics = st.floats(0, 0.6) if known else st.none()
        at = [Measured(ratio, draw(shares), draw(metrics), draw(shares), draw(errors)) for ratio in ratios]
        groups.append(Group([f"p{name}", f"q{name}"], at))
    return groups, DENSE if known else None


KINDS = st.sampled_from(["time", "macs"])


def choices(groups, kind, dense):
    """(what is saved, what is lost) of all there are."""
    options = [group.options(kind, dense) for group in groups]
    return [tuple(map(sum, zip(*((saved, lost) for _, saved, lost in each)))) for each in itertools.product(*options)]


@given(exact_groups(), KINDS, st.data())
def test_the_best_choice_is_found(measured, kind, data):
    groups, dense = measured
    sums = [(round(saved / BIN), lost) for saved, lost in choices(groups, kind, dense)]
    most = max(saved for saved, _ in sums)
    wanted = min(data.draw(st.sampled_from(sums))[0] + data.draw(st.integers(0, 1)), most)
    found = solve(groups, 1 - BIN * wanted, kind, dense)
    assert found.loss == pytest.approx(min(lost for saved, lost in sums if saved >= wanted), abs=1e-9)
    assert found.cost <= 1 - BIN * wanted + 1e-9
    with pytest.raises(OutOfReachError):
        solve(groups, 1 - BIN * (most + 2), kind, dense)


@given(any_groups(), KINDS, st.floats(0.0, 1.0))
def test_no_choice_exceeds_its_limit_nor_is_much_worse_than_another(measured, kind, limit):
    groups, dense = measured
    room = (len(groups) + 1) * BIN  # by the roundings of bins
    sums = choices(groups, kind, dense)
    try:
        found = solve(groups, limit, kind, dense)
    except OutOfReachError:
        assert limit < 1 - max(saved for saved, _ in sums)
        return
    assert found.cost <= limit + room
    assert all(found.loss <= lost + 1e-9 for saved, lost in sums if saved >= 1 - limit + room)
    own = [found.ratios[group.places[0]] for group in groups]
    assert found.ratios == {place: ratio for group, ratio in zip(groups, own, strict=True) for place in group.places}
    costs = [1 - group.cost(ratio, kind) for group, ratio in zip(groups, own, strict=True)]
    assert found.cost == pytest.approx(1 - sum(costs))
    assert found.loss == pytest.approx(sum(group.loss(ratio, dense) for group, ratio in zip(groups, own, strict=True)))


@one_in(2)
@given(any_groups(), KINDS)
def test_less_is_never_worth_more(measured, kind):
    """From the dense network down to the floor, and in any order of the groups."""
    groups, dense = measured
    found = trade_off(groups, kind, dense, points=12)
    limits = np.linspace(1.0, 0.0, 12)[: len(found)]
    losses = [each.loss for each in found]
    assert losses == pytest.approx(sorted(losses), abs=1e-9) and found
    assert all(each.cost <= limit + (len(groups) + 1) * BIN for each, limit in zip(found, limits, strict=True))
    assert [each.loss for each in trade_off(groups[::-1], kind, dense, points=12)] == pytest.approx(losses, abs=1e-9)


@given(any_groups(), KINDS, st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2))
def test_costs_fall_and_losses_rise_with_lower_ratios(measured, kind, places):
    groups, dense = measured
    for group in groups:
        low, high = group.at[0].keep_ratio, group.at[-1].keep_ratio
        one, other = (low + place * (high - low) for place in sorted(places))
        assert group.cost(one, kind) <= group.cost(other, kind) + 1e-12
        assert group.loss(one, dense) >= group.loss(other, dense) - 1e-12
        assert group.cost(1.0, kind) == 1.0 and group.loss(1.0, dense) == 0.0


@st.composite
def timed_groups(draw):
    """Groups around the same base, each timed by itself."""
    base, groups = draw(st.sampled_from([0.2, 0.5, 0.8])), []
    for name in range(draw(st.integers(1, 4))):
        times, errors = st.floats(0.1, 1.5), st.floats(0, 0.05)
        at = [Measured(ratio, ratio, None, draw(times), draw(errors)) for ratio in (0.2, 0.5, 0.8)]
        groups.append(Group([f"p{name}"], at, Measured(1.0, 1.0, None, draw(times), draw(errors)), base))
    return groups


def times(groups):
    return np.array([[each.time for each in (*group.at, group.whole)] for group in groups])


@given(timed_groups())
def test_levelled_groups_agree_on_their_base_alone(groups):
    found, base = levelled(groups), [0.2, 0.5, 0.8].index(groups[0].base)
    assert times(found)[:, base] == pytest.approx(np.median(times(groups)[:, base]))
    of_base = times(groups) / times(groups)[:, base, None]
    assert times(found) / times(found)[:, base, None] == pytest.approx(of_base)
    assert times(levelled(found)) == pytest.approx(times(found))
    assert times(levelled(groups[::-1])) == pytest.approx(times(found)[::-1])


def slower_group(time, error, whole):
    """Of places that were timed by themselves, at their base."""
    return Group(["p"], [Measured(0.2, 0.2, None, time, error)], Measured(1.0, 1.0, None, whole), 0.2)


@given(timed_groups())
@example([slower_group(0.5, 0.0, 1.0), slower_group(1.125, 0.0234375, 1.1875)])
def test_levelling_changes_no_verdict(groups):
    """On what is certainly faster, or not by a hair."""
    hair = 1e-9
    for group in groups:
        timed, whole = group.at[0], group.whole
        assume(abs(timed.time + CERTAIN * math.hypot(timed.error, whole.error) - whole.time) > hair)
    assert [group.pays() for group in levelled(groups)] == [group.pays() for group in groups]


def row(times):
    return Row("model", 1, 1, "eager f32", "", "", 1, times=list(times))


@given(st.lists(st.tuples(*[st.floats(0.1, 100)] * 3), min_size=1, max_size=9), st.floats(0.1, 10))
def test_what_slows_a_round_slows_its_share_nowhere(rounds, factor):
    own, dense, slow = map(np.array, zip(*rounds))
    share, error = calibration.share_of(row(own), row(dense))
    assert calibration.share_of(row(own * slow), row(dense * slow)) == pytest.approx((share, error), abs=1e-9)
    assert calibration.share_of(row(factor * own), row(dense)) == pytest.approx((factor * share, factor * error))
    assert calibration.share_of(row(factor * dense), row(dense)) == pytest.approx((factor, 0.0), abs=1e-9)
    assert row(own).speedup(row(dense)) == pytest.approx(np.median(dense / own))


SHAPES = st.tuples(st.integers(1, 2048), st.integers(1, 2048))


@given(SHAPES, st.lists(st.floats(1e-3, 1.0), min_size=2, max_size=2).map(sorted), st.integers(1, 64))
def test_smaller_pictures_keep_their_proportions(shape, shares, divisor):
    less, more = (smaller(shape, share, divisor) for share in shares)
    for found, side in zip(less, shape, strict=True):
        wanted = math.sqrt(shares[0]) * side
        assert found % divisor == 0 and abs(found - max(wanted, divisor)) <= divisor / 2 + 1e-6
    assert all(a <= b for a, b in zip(less, more, strict=True))
    assert smaller(shape[::-1], shares[0], divisor) == less[::-1]
    whole = (shape[0] * divisor, shape[1] * divisor)
    assert smaller(whole, 1.0, divisor) == whole


WORDS = st.text(max_size=6)
TIMED_ROWS = st.builds(
    Row,
    *(WORDS, st.integers(1, 8), st.integers(1, 8), WORDS, WORDS, WORDS, st.integers(0, 10**12), WORDS),
    st.lists(st.floats(0, 1e6), max_size=3),
    WORDS,
)


@one_in(2)
@given(st.dictionaries(WORDS, WORDS | st.integers() | st.none(), max_size=3), st.lists(TIMED_ROWS, max_size=4))
def test_results_are_read_as_they_were_written(setup, rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        Results(setup, rows).write(path)
        assert Results.read(path) == Results(setup, rows) == Results.begin(path, setup)
    assert rivals.Form.read("openvino-int8") == rivals.Form("openvino", "int8")


@given(any_groups() | timed_groups().map(lambda groups: (groups, None)))
def test_groups_are_read_as_they_were_written(measured):
    for group in measured[0]:
        assert Group.read(json.loads(json.dumps(asdict(group)))) == group


class Scored:
    """A detector that is as good as its pictures' mean."""

    def __init__(self, values):
        self.values, self.pictures = np.array(values), list(range(len(values)))

    def __call__(self, picks=None):
        return float(self.values[slice(None) if picks is None else picks].mean())


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8), SEEDS, st.floats(-1, 1))
def test_an_interval_holds_its_estimate_and_is_of_the_difference(pairs, seed, more):
    one, other = (Scored(values) for values in zip(*pairs))
    found = difference(one, other, draws=100, seed=seed)
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    assert found.value == pytest.approx(one() - other(), abs=1e-9)
    swapped = difference(other, one, draws=100, seed=seed)
    assert (-swapped.value, -swapped.high, -swapped.low) == pytest.approx((found.value, found.low, found.high))
    better = difference(Scored(one.values + more), other, draws=100, seed=seed)
    shifted = (found.value + more, found.low + more, found.high + more)
    assert (better.value, better.low, better.high) == pytest.approx(shifted, abs=1e-9)
    alike = difference(one, one, draws=100, seed=seed)
    assert (alike.value, alike.low, alike.high) == (0, 0, 0)


def pictures(seed, number):
    """Of each, the objects and what is found: boxes (x, y, w, h), classes and scores; most objects are found."""
    draw, found = np.random.default_rng(seed), []
    for _ in range(number):
        objects, guesses = (
            draw.integers((0, 0, 5, 5, 0, 1), (40, 40, 30, 30, 2, 9), (draw.integers(1, 4), 6)).tolist() for _ in "ab"
        )
        found.append((objects, [*objects[1:], *guesses]))
    return found


def coco_files(folder, found):
    """Annotations of pictures, and what was found on them as COCO has it."""
    truth = dict(images=[], annotations=[], categories=[dict(id=3, name="one"), dict(id=8, name="two")])
    results = []
    for number, (objects, guesses) in enumerate(found, start=1):
        truth["images"].append(dict(id=number, file_name="", width=80, height=80))
        for boxes, page in ((objects, truth["annotations"]), (guesses, results)):
            for *box, label, score in boxes:
                of = dict(image_id=number, category_id=(3, 8)[label], bbox=box, area=box[2] * box[3], iscrowd=0)
                page.append(dict(of, id=len(page) + 1, score=score))
    path = folder / "truth.json"
    path.write_text(json.dumps(truth))
    return path, results


def coco_precision(path, results):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def dumped(found):
    """As mmdet writes what was found."""
    pages = []
    for number, (_, guesses) in enumerate(found, start=1):
        table = torch.tensor(guesses, dtype=torch.float64)
        corners = torch.cat([table[:, :2], table[:, :2] + table[:, 2:4]], dim=1)
        instances = dict(bboxes=corners, scores=table[:, 5], labels=table[:, 4].int())
        pages.append(dict(img_id=number, pred_instances=instances))
    return pages


@one_in(2)
@given(SEEDS, st.integers(2, 4), st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_drawn_pictures_are_a_data_set_of_them(seed, number, picks):
    """Its mAP is that of COCO's own evaluation, however often a picture was drawn."""
    found, picks = pictures(seed, number), [pick % number for pick in picks]
    with tempfile.TemporaryDirectory() as folder:
        drawn = PictureAP(coco_files(Path(folder), found)[0], dumped(found), ("one", "two"))
        for chosen in (picks, range(number)):
            expected = coco_precision(*coco_files(Path(folder), [found[pick] for pick in chosen]))
            assert drawn(chosen) == pytest.approx(expected, abs=1e-9)
        assert drawn() == drawn(range(number))


@st.composite
def gates(draw):
    """Hard ones (B, N), and which of them are valid, some in each picture."""
    batch, number = draw(BATCHES), draw(st.integers(1, 12))
    gate, valid = (draw(flags(batch * number)).view(batch, number) for _ in range(2))
    return gate.float(), torch.cat([torch.ones(batch, 1).bool(), valid[:, 1:]], dim=1)


@given(gates(), RATIOS, st.data())
def test_the_ratio_loss_is_the_squared_distance_in_any_order(decided, ratio, data):
    """Of each picture, or of all of them together, which is no farther."""
    gate, valid = decided
    pairs = list(zip(gate.tolist(), valid.tolist(), strict=True))
    kept = [[value for value, here in zip(*pair, strict=True) if here] for pair in pairs]
    order = torch.tensor(data.draw(st.permutations(range(len(gate)))))
    for per_image, parts in ((True, kept), (False, [list(itertools.chain(*kept))])):
        loss = ratio_loss(gate, ratio, per_image, valid)
        expected = np.mean([(sum(part) / len(part) - ratio) ** 2 for part in parts])
        assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
        torch.testing.assert_close(ratio_loss(gate[order], ratio, per_image, valid[order]), loss)
    assert ratio_loss(gate, ratio).item() >= ratio_loss(gate, ratio, per_image=False).item() - 1e-6


@given(gates(), SEEDS, st.data())
def test_both_answers_weigh_the_same_however_often_they_are(labels, seed, data):
    """The score loss is half the mean of either; it is zero where all are surely right."""
    target, valid = labels
    scores = normal(seed, *target.shape)
    loss = score_loss(scores, target, valid)
    wrong = F.softplus(torch.where(target > 0, -scores, scores))
    halves = [0.5 * wrong[valid & (target == answer)] for answer in (0, 1)]
    if all(len(half) for half in halves):
        torch.testing.assert_close(loss, sum(half.mean() for half in halves), rtol=1e-5, atol=1e-6)
    order = torch.tensor(data.draw(st.permutations(range(len(target)))))
    torch.testing.assert_close(score_loss(scores[order], target[order], valid[order]), loss)
    torch.testing.assert_close(score_loss(-scores, 1 - target, valid), loss)
    assert loss > 0 and score_loss(100 * (2 * target - 1), target, valid) == pytest.approx(0.0, abs=1e-6)
    assert score_loss(100 * (1 - 2 * target), target, valid) > 40


# losses of two lists of tensors (B, ...), and their shapes
DISTILLATIONS = [
    (lambda mine, theirs: feature_distillation(*mine, *theirs), [(6, 4)]),
    (lambda mine, theirs: logit_distillation(*mine, *theirs), [(5,)]),
    (lambda mine, theirs: pixel_distillation(*mine, *theirs), [(3, 2, 3)]),
    (
        lambda mine, theirs: detection_distillation([mine[:2], mine[2:]], [theirs[:2], theirs[2:]]),
        [(2, 3, 3), (2, 1, 2), (4, 3, 3), (4, 1, 2)],
    ),
]


@given(SEEDS, BATCHES, st.data())
def test_a_student_that_says_the_same_loses_nothing(seed, batch, data):
    order = torch.tensor(data.draw(st.permutations(range(batch))))
    for loss, shapes in DISTILLATIONS:
        student, teacher = (
            [normal(seed + 10 * who + part, batch, *shape) for part, shape in enumerate(shapes)] for who in range(2)
        )
        value = loss(student, teacher)
        assert loss(teacher, teacher).item() == pytest.approx(0.0, abs=1e-6) and value > 1e-3
        shuffled = loss([part[order] for part in student], [part[order] for part in teacher])
        torch.testing.assert_close(shuffled, value)


@given(SEEDS, BATCHES, st.permutations(range(3)))
def test_distilled_boxes_count_by_their_distance_where_there_are_objects(seed, batch, order):
    """Whichever level they are on, and as much as the teacher is sure of them."""
    logits, teacher, student = (
        [normal(seed + 10 * which + level, batch, 4, level + 1, 2) for level in range(3)] for which in range(3)
    )
    mirrored = [2 * theirs - mine for mine, theirs in zip(student, teacher, strict=True)]
    loss = detection_distillation([logits, student], [logits, teacher])
    for mine, theirs in (([logits, mirrored], [logits, teacher]), ([logits, teacher], [logits, student])):
        torch.testing.assert_close(detection_distillation(mine, theirs), loss)
    again = [[part[level] for level in order] for part in (logits, student, teacher)]
    torch.testing.assert_close(detection_distillation(again[:2], [again[0], again[2]]), loss)
    seen, apart = (
        torch.cat([part.flatten(2) for part in parts], dim=2) for parts in (logits, list(map(sub, student, teacher)))
    )
    weight = seen.sigmoid().amax(dim=1)
    torch.testing.assert_close(loss, (weight * apart.abs().mean(dim=1)).sum() / weight.sum().clamp_min(1))


@given(SEEDS, BATCHES, st.floats(-20, 20), st.data())
def test_distilled_distributions_have_no_level_and_distilled_features_no_rest(seed, batch, level, data):
    student, teacher = normal(seed, batch, 5), normal(seed + 1, batch, 5)
    loss = logit_distillation(student, teacher)
    torch.testing.assert_close(logit_distillation(student + level, teacher - level), loss, rtol=1e-3, atol=1e-4)
    keep = data.draw(flags(batch * 5)).view(batch, 5)
    one, other = student.unsqueeze(2), teacher.unsqueeze(2)
    found = feature_distillation(torch.where(keep.unsqueeze(2), one, 100.0), other, keep)
    assert found.item() == pytest.approx(((one - other)[keep] ** 2).sum().item() / max(int(keep.sum()), 1), rel=1e-4)


@given(gates(), SEEDS, st.integers(-20, 20), st.floats(-50, 50))
def test_targets_of_gains_have_no_scale_and_keep_the_order(decided, seed, power, other):
    """Those of stakes have no sign either, and nothing depends on what was not seen."""
    seen = decided[1]
    gain = normal(seed, *seen.shape) ** 3
    target = gain_target(gain, seen)
    changed = torch.where(seen, gain, other)
    for way, again in ((GAIN, gain * 2.0**power), (GAIN, changed), (STAKE, -gain), (STAKE, gain.abs() * 2.0**power)):
        one, two = (gain_target(each, seen, way)[seen] for each in (gain, again))
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gain_target(-gain, seen), -target, rtol=1e-5, atol=1e-5)
    for row, values, here in zip(target, gain, seen, strict=True):
        assert row[here].mean().item() == pytest.approx(0.0, abs=1e-4)
        assert (row[here].square().mean() - 1).abs() < 0.01 or len(row[here]) == 1
        assert (row[here][values[here].argsort()].diff() >= -1e-5).all()


ALL_LAYOUTS = [*releases.LAYOUTS, *hugging_face.LAYOUTS, HEADS]
FIELDS = dict(
    i=st.integers(0, 11),
    j=st.integers(0, 3),
    p=st.sampled_from(["weight", "bias"]),
    n=st.sampled_from(["weight", "proj.bias", "reduction.weight"]),
)


def filled(template, fields):
    """A name that follows a template."""
    return re.sub(r"\{(\w)(\+1)?\}", lambda m: str(fields[m[1]] + 1 if m[2] else fields[m[1]]), template)


@st.composite
def weights(draw, layout, ours):
    """Random ones under names of ours or theirs that a layout knows, no two of which become the same."""
    rules = [rule for rule in layout.rules if rule.ours != releases.REGISTERS or layout.rules is not releases.VIT]
    state, seen = {}, set()
    if layout.family == "convnext" and ours:
        state["downsample_layers.0.0.weight"] = normal(draw(SEEDS), draw(st.sampled_from([12, 40])), 8)
    for rule in draw(st.lists(st.sampled_from(rules), min_size=1, max_size=8)):
        fields = {letter: draw(values) for letter, values in FIELDS.items()}
        name = filled(rule.ours, fields)
        shape = draw(st.sampled_from([(12,), (12, 8)]))
        if rule.change in (releases.LINEAR, releases.TIMM_LINEAR):
            shape = (12, 8) if ours else draw(st.sampled_from([(12, 8), (12, 8, 1, 1)]))
        if rule.change is releases.FLAT:
            shape = (12,) if ours else draw(st.sampled_from([(12,), (1, 1, 1, 12)]))
        if name in seen or name in state:
            continue
        seen.add(name)
        theirs = (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs
        for key in [name] if ours else [filled(template, fields) for template in theirs]:
            state[key] = normal(draw(SEEDS), *shape)
    return state


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("layout", ALL_LAYOUTS, ids=lambda layout: layout.name)
@one_in(3)
@given(data=st.data())
def test_weights_that_go_out_come_back(layout, data):
    state = data.draw(weights(layout, ours=True))
    written, no_place = layouts.write(state, layout)
    assert not no_place
    again, left_out = layouts.read(written, layout)
    assert not left_out
    same(again, state)


@pytest.mark.parametrize("layout", ALL_LAYOUTS, ids=lambda layout: layout.name)
@one_in(3)
@given(data=st.data())
def test_what_is_read_is_the_same_by_any_name(layout, data):
    """Of a whole classifier's file or of its backbone's, in any order, and when it was written anew."""
    theirs = data.draw(weights(layout, ours=False))
    stem = {"downsample_layers.0.0.weight": normal(0, 12, 8)}
    if layout.family == "convnext" and not layouts.read(theirs, layout)[0].keys() & stem.keys():
        theirs |= layouts.write(stem, layout)[0]
    state, left_out = layouts.read(theirs, layout)
    assert not left_out and all(value.dim() <= 2 for value in state.values())
    shuffled = data.draw(st.permutations(list(theirs)))
    same(layouts.read({name: theirs[name] for name in shuffled}, layout)[0], state)
    same(layouts.read({layout.prefix + name: value for name, value in theirs.items()}, layout)[0], state)
    written, no_place = layouts.write(state, layout)
    assert not no_place
    same(layouts.read(written, layout)[0], state)


JOINED = [(layout, rule) for layout in ALL_LAYOUTS for rule in layout.rules if isinstance(rule.theirs, tuple)]


@given(st.sampled_from(JOINED), st.fixed_dictionaries(FIELDS), SEEDS, st.data())
def test_weights_that_are_joined_are_whole_and_in_their_order_or_refused(joined, fields, seed, data):
    layout, rule = joined
    parts = {filled(template, fields): normal(seed + place, 4, 3) for place, template in enumerate(rule.theirs)}
    (whole,) = layouts.read(parts, layout)[0].values()
    assert torch.equal(whole, torch.cat(list(parts.values())))
    del parts[data.draw(st.sampled_from(list(parts)))]
    with pytest.raises(ValueError, match="incomplete weights: there is no"):
        layouts.read(parts, layout)


@given(SEEDS, st.integers(1, 5), st.integers(1, 4))
def test_a_class_token_keeps_its_place_where_there_are_registers(seed, side, registers):
    (layout,) = (layout for layout in releases.LAYOUTS if layout.rules is releases.VIT)
    state = {
        "cls_token": normal(seed, 1, 1, 4),
        "pos_embed": normal(seed + 1, 1, side**2 + 1, 4),
        releases.REGISTERS: normal(seed + 2, 1, registers, 4),
    }
    again = releases.with_place_of_class(layouts.read(layouts.write(state, layout)[0], layout)[0])
    for name in (releases.REGISTERS, "pos_embed"):
        assert torch.equal(again[name][:, 1:], state[name][:, 1:])
    placed = [each["cls_token"] + each["pos_embed"][:, :1] for each in (again, state)]
    torch.testing.assert_close(*placed)


BACKBONES = [
    dict(type="mmpretrain.ConvNeXt", arch=dict(depths=[1, 1, 4, 1], channels=[8] * 4), gap_before_final_norm=False),
    dict(type="mmdet.ResNet", depth=18, base_channels=4),
    dict(type="mmdet.SwinTransformer", embed_dims=8, depths=[1, 1, 4], num_heads=[1, 1, 1], strides=[4, 2, 2],
         out_indices=[2]),
    dict(type="mmpretrain.VisionTransformer", img_size=32, patch_size=8, out_type="featmap",
         arch=dict(embed_dims=8, num_layers=4, num_heads=2, feedforward_channels=8)),
]  # fmt: skip
PARTS = ("backbone", "neck", "head")
TREES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda part: (
        st.lists(part, max_size=2) | st.dictionaries(st.sampled_from(["lr", "by", "of", "at"]), part, max_size=2)
    ),
    max_leaves=4,
)


@st.composite
def dense_configs(draw):
    model = dict(
        type="RetinaNet",
        backbone=draw(st.sampled_from(BACKBONES)),
        neck=dict(type="FPN", in_channels=[8, 8], out_channels=8, num_outs=2),
        bbox_head=dict(type="RetinaHead", num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1),
        test_cfg=draw(TREES),
    )
    rest = dict(schedule=draw(TREES), custom_hooks=[dict(type="EMAHook")])
    if draw(st.booleans()):
        rest["optim_wrapper"] = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.1))
    return dict(default_scope="mmdet", model=model, **rest)


KEPT = st.dictionaries(st.sampled_from(PARTS), st.sampled_from([0.5, 0.7, 1.0]), min_size=1)


def routed(cfg, ratios, **more):
    parts = {part: True for part in ("neck", "head") if part in ratios}
    return mmsparse.sparsify(cfg, ratios, **parts, **more)


def copied(tree, change=lambda items: items):
    """A nested config, its dicts' keys in another order."""
    if isinstance(tree, dict):
        return {key: copied(value, change) for key, value in change(list(tree.items()))}
    return [copied(value, change) for value in tree] if isinstance(tree, list) else tree


def spoil(tree):
    for value in list(tree.values() if isinstance(tree, dict) else tree):
        if isinstance(value, dict | list):
            spoil(value)
    tree.clear()


@one_in(5)
@given(dense_configs(), KEPT, st.booleans(), st.booleans())
def test_a_dense_config_stays_as_it_is(cfg, ratios, train, as_config):
    """Also where its twin is changed afterwards, and all that is not routed is in the twin."""
    before, dense = copied(cfg), Config(copied(cfg)) if as_config else cfg
    twin = routed(dense, ratios, train=train)
    assert (dense.to_dict() if as_config else dense) == before
    found = twin.to_dict()
    changed = {"neck": "neck", "head": "bbox_head", "backbone": "backbone"}
    for part, key in changed.items():
        assert (found["model"][key] == before["model"][key]) == (part not in ratios)
        assert found["model"][key].get("sparsity", {}).get("keep_ratio") == ratios.get(part)
    assert found["schedule"] == before["schedule"] and found["model"]["test_cfg"] == before["model"]["test_cfg"]
    assert found["custom_hooks"][: len(before["custom_hooks"])] == before["custom_hooks"]
    spoil(twin._cfg_dict)
    assert (dense.to_dict() if as_config else dense) == before


@one_in(5)
@given(dense_configs(), KEPT, st.randoms(use_true_random=False))
def test_the_order_of_keys_and_parts_does_not_matter(cfg, ratios, chance):
    shuffled = [copied(each, lambda items: chance.sample(items, len(items))) for each in (cfg, ratios)]
    assert routed(*shuffled).to_dict() == routed(cfg, ratios).to_dict()


@one_in(5)
@given(dense_configs(), st.permutations(PARTS), st.data())
def test_parts_are_routed_together_or_one_after_another_but_not_twice(cfg, parts, data):
    parts = parts[: data.draw(st.integers(1, 3))]
    ratios = {part: data.draw(st.sampled_from([0.5, 0.7])) for part in parts}
    found = cfg
    for part in parts:
        found = routed(found, {part: ratios[part]})
    assert found.to_dict() == routed(cfg, ratios).to_dict()
    with pytest.raises(ValueError, match="dynamic already|Supported are"):
        routed(found, {parts[0]: 0.5})


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone["type"])
@one_in(10)
@given(ratio=st.sampled_from([0.5, 0.7]), size=st.tuples(*[st.integers(48, 80)] * 2), seed=SEEDS)
def test_where_everything_is_kept_the_twin_is_the_dense_network(backbone, ratio, size, seed):
    """And nowhere else."""
    dense = dict(default_scope="mmdet", model=dict(type="RetinaNet", backbone=backbone))
    twin, stock = (MODELS.build(cfg) for cfg in (mmsparse.sparsify(dense, ratio).model.backbone, copied(backbone)))
    twin.train(False), stock.train(False)
    for number, parameter in enumerate(stock.parameters()):
        parameter.data = parameter.data + 0.1 * normal(seed + number, *parameter.shape)
    assert not twin.load_state_dict(stock.state_dict(), strict=False).unexpected_keys
    picture, kept = normal(seed, 1, 3, *size), get_keep_ratio(twin)
    with torch.no_grad():
        expected = stock(picture)
        with budget(1.0):
            for one, other in zip(twin(picture), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(twin(picture)[-1], expected[-1], rtol=1e-3, atol=1e-3)
    assert get_keep_ratio(twin) == kept and max(kept.values()) == ratio


NUMBERS = st.integers(0, 12).map(str) | st.sampled_from(["", "-1", "+1", " 1", "1.0", "one", "1/2"])


@contextlib.contextmanager
def started_by(**environment):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"):
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


@given(NUMBERS, NUMBERS)
def test_a_share_is_one_of_so_many_or_refused(number, total):
    fits = re.fullmatch(r"\d+", number) and re.fullmatch(r"\d+", total) and int(number) < int(total)
    ways = [
        (f"{number}/{total}", {}),
        (None, dict(RANK=number, WORLD_SIZE=total)),
        (None, dict(SLURM_PROCID=number, SLURM_STEP_NUM_TASKS=total)),
        (f"{number}/{total}", dict(RANK="0", WORLD_SIZE="1")),
    ]
    for shard, environment in ways:
        with started_by(**environment):
            if fits:
                assert share_of(shard) == (int(number), int(total))
            elif shard or number:
                with pytest.raises(ValueError, match="`--shard` to be I/N"):
                    share_of(shard)


@given(st.integers(0, 40), st.integers(1, 12))
def test_shares_of_pictures_are_disjoint_and_all(number, shares):
    pictures, taken = {f"{place:03d}": Path(f"{place:03d}.png") for place in range(number)}, []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch, started_by():
        for name in ("open_config", "check_predictable", "build_model", "_made_by", "_claim", "inferencer_of"):
            patch.setattr(predict, name, lambda *_, **__: SimpleNamespace(default_scope="mmseg"))
        patch.setattr(predict, "build_model", lambda *_: None)
        patch.setattr(predict, "find_pictures", lambda *_, **__: pictures)
        patch.setattr(predict, "_predict", lambda _, jobs, size: taken.append(list(jobs)) or {})
        given_all = dict(config="c.py", checkpoint="c.pth", pictures=[], out=Path(folder), score_thr=0.3, draw=False)
        given_all |= dict(runtime=None, keep_ratio=None, trust_checkpoint=False, cfg_options=None)
        for share in range(shares):
            predict.run(Namespace(shard=f"{share}/{shares}", **given_all))
    assert sorted(job.picture for jobs in taken for job in jobs) == sorted(pictures.values())
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


STEPS = ["open", "os.fsync", "Path.replace", None]


@given(st.none() | st.binary(max_size=40), st.binary(max_size=40) | st.text(max_size=20), st.sampled_from(STEPS))
def test_a_file_is_there_whole_or_as_it_was(before, data, fails):
    """Whatever is the step at which its process is interrupted; and nothing else is left."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "deeper" / "file"
        if before is not None:
            files.write_whole(before, path)
        if fails is None:
            files.write_whole(data, path)
        else:
            patch.setattr(f"mmsparse.files.{fails}", interrupted, raising=False)
            with pytest.raises(KeyboardInterrupt):
                files.write_whole(data, path)
            patch.undo()
        expected = (data.encode() if isinstance(data, str) else data) if fails is None else before
        assert [each.name for each in path.parent.iterdir()] == ["file"] * (expected is not None)
        assert expected is None or path.read_bytes() == expected


def saved():
    content = io.BytesIO()
    torch.save({"weight": torch.arange(64.0)}, content)
    return content.getvalue()


WHOLE = saved()
LENGTHS = st.just(len(WHOLE)) | st.integers(0, len(WHOLE) - 1)


@st.composite
def checkpoints(draw):
    """Lengths by their numbers, and what is said to be the last."""
    numbers = draw(st.sets(st.integers(0, 12) | st.integers(90, 120), max_size=5))
    note = (
        st.none() | st.integers(0, 120) | st.sampled_from(["", "elsewhere/epoch_3.pth", "last one", *numbers, *numbers])
    )
    return {number: draw(LENGTHS) for number in numbers}, draw(note)


@given(checkpoints(), st.sampled_from(["iter", "epoch"]), st.sampled_from(["", "\n"]))
def test_the_checkpoint_to_go_on_from_is_whole(found, unit, end):
    """The named one, or the newest, by its number; or none."""
    there, note = found
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, length in there.items():
            (folder / f"{unit}_{number}.pth").write_bytes(WHOLE[:length])
        for other in (f"best_mAP_{unit}_999.pth", f"{unit}_998.pth.part", "weights.pth"):
            (folder / other).write_bytes(WHOLE)
        if note is not None:
            named = folder / (f"{unit}_{note}.pth" if isinstance(note, int) else note) if note != "" else ""
            (folder / "last_checkpoint").write_text(f"{named}{end}")
        whole = [number for number, length in there.items() if length == len(WHOLE)]
        best = note if note in whole else max(whole, default=None)
        assert latest_checkpoint(folder) == (None if best is None else str(folder / f"{unit}_{best}.pth"))


@given(SEEDS, st.integers(0, 10**6), st.integers(0, 50), st.integers(1, 10**6))
def test_draws_depend_on_the_seed_the_iteration_and_the_process_alone(seed, iteration, before, other):
    def drawn(seed, iteration, rank=0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mmsparse.engine.seed_hook.get_rank", lambda: rank)
            SeedHook(seed).before_train_iter(SimpleNamespace(iter=iteration), before)
        return torch.rand(8)

    first = drawn(seed, iteration)
    torch.rand(before)
    assert torch.equal(drawn(seed, iteration), first)
    for others in ((seed + other, iteration), (seed, iteration + other), (seed, iteration, other)):
        assert not torch.equal(drawn(*others), first)


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda size: st.tuples(st.just(size), flags(math.prod(size)))
    )
)
def test_run_lengths_are_read_as_the_mask_they_are_of(drawn):
    size, bits = drawn
    mask = bits.view(size).numpy()
    written = run_lengths(mask)
    assert sum(written["counts"]) == mask.size and all(written["counts"][1:])
    assert np.array_equal(coco_masks.decode(coco_masks.frPyObjects(json.loads(json.dumps(written)), *size)), mask)


@one_in(5)
@given(st.integers(0, 2**31), st.sampled_from(SPLITS), st.integers(0, 99), st.sampled_from(list(STYLES)), st.booleans())
def test_a_board_depends_on_its_arguments_alone_and_defects_change_nothing_else(seed, split, index, style, colour):
    board, clean, again = (render_board(seed, split, index, 128, defects, colour, style) for defects in (1.0, 0.0, 1.0))
    for one, other in ((board.image, again.image), (board.labels, again.labels), (board.copper, again.copper)):
        assert np.array_equal(one, other)
    assert [defect.bbox for defect in board.defects] == [defect.bbox for defect in again.defects]
    near = np.zeros_like(board.copper)
    for defect in board.defects:
        x, y, w, h = defect.bbox
        near[max(y - MARGIN, 0) : y + h + MARGIN, max(x - MARGIN, 0) : x + w + MARGIN] = True
    assert np.array_equal(board.copper[~near], clean.copper[~near])
    assert (board.labels[~near] == 1).all() and (clean.labels == 1).all()


@one_in(3)
@given(st.integers(0, 2**31), st.sampled_from(SPLITS), st.integers(0, 99))
def test_a_scene_depends_on_its_arguments_alone(seed, split, index):
    scene, other, again = (render_scene(seed, split, number, 64) for number in (index, index + 1, index))
    assert np.array_equal(scene.image, again.image) and np.array_equal(scene.labels, again.labels)
    assert not np.array_equal(scene.image, other.image)
    assert not np.array_equal(scene.image, render_scene(seed + 1, split, index, 64).image)


@dataclass(frozen=True)
class Dots(DatasetArgs):
    name: ClassVar[str] = "dots"
    format_version: ClassVar[int] = 1
    categories: ClassVar[dict[str, str]] = dict(dot="mark")

    def render(self, split, index):
        draw = np.random.default_rng(picture_seed(self.seed, split, index))
        image, labels = draw.integers(0, 255, (2, self.size, self.size), dtype=np.uint8)
        return Picture(image, labels, [dict(category_id=1, area=int(image.sum()))] * (index % 3))


def all_files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@one_in(5)
@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 99),
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=4),
)
def test_a_data_set_that_is_written_with_interruptions_has_the_same_bytes(images, val, seed, stops):
    args = Dots(images=images, size=8, seed=seed, val=val)
    with tempfile.TemporaryDirectory() as name:
        whole, broken = Path(name) / "whole", Path(name) / "broken"
        assert write_dataset(whole, args, progress=False)
        for pictures, torn in stops:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Dots, "render", until(pictures, Dots.render))
                try:
                    write_dataset(broken, args, progress=False)
                except KeyboardInterrupt:
                    assert not (broken / "dots.json").exists()
                    if torn:
                        with open(broken / "annotations" / "train.jsonl", "a") as lines:
                            lines.write('[{"category_')
        write_dataset(broken, args, progress=False)
        assert all_files(broken) == all_files(whole)
        assert not write_dataset(broken, args, progress=False)


def until(pictures, render):
    """Makes so many pictures, and is interrupted."""
    made = []

    def interrupted(*args):
        if len(made) == pictures:
            raise KeyboardInterrupt
        made.append(args)
        return render(*args)

    return interrupted


@given(st.lists(st.lists(st.just({"category_id": 1}), max_size=3), max_size=4))
def test_annotations_are_numbered_from_one_and_belong_to_their_pictures(records):
    page = instances_file(Dots, records, 8)
    assert [each["id"] for each in page["annotations"]] == list(range(1, sum(map(len, records)) + 1))
    assert [each["image_id"] for each in page["annotations"]] == [
        index for index, record in enumerate(records) for _ in record
    ]
    assert [each["file_name"] for each in page["images"]] == [f"{index:06d}.jpg" for index in range(len(records))]
