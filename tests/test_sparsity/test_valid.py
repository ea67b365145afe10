"""Padding takes no part in decisions, whatever its features are."""

import pytest
import torch

from mmsparse.registry import build
from mmsparse.sparsity import (
    Decider,
    Geometry,
    Scorer,
    Selection,
    Selector,
    SharedScorer,
    ThresholdSelector,
    TopKSelector,
    Valid,
    ratio_loss,
    real_sizes,
    score_loss,
    unit_features,
    valid_units,
)
from mmsparse.sparsity import valid as valid_area

GRID = (6, 8)
ENDS = [(6, 8), (4, 8), (5, 3), (1, 1)]


def valid():
    mask = torch.zeros(len(ENDS), *GRID, dtype=torch.bool)
    for row, (high, wide) in zip(mask, ENDS, strict=True):
        row[:high, :wide] = True
    return Valid(mask.flatten(1), tuple(ENDS))


def decision(scorer, selector="TopKSelector", cumulative=False, keep_ratio=0.5):
    parts = (build(dict(type=scorer), Scorer, "scorer", channels=16), build(dict(type=selector), Selector, "selector"))
    made = Decider("place", *parts, cumulative=cumulative)
    made.keep_ratio = keep_ratio
    return made.eval()


def test_a_location_counts_if_it_holds_a_real_pixel():
    tokens = torch.zeros(3, 1)
    with real_sizes([(10, 16), (8, 9), (1, 1)], (16, 16)):
        found = valid_units(Geometry((4, 4)), tokens)
        assert found.counts == (12, 6, 1)
        assert found.mask.view(3, 4, 4)[1].long().tolist() == [[1, 1, 1, 0]] * 2 + [[0] * 4] * 2
        assert valid_units(Geometry((4, 4)), tokens) is found
        assert valid_units(Geometry((8, 4)), tokens).counts == (5 * 4, 4 * 3, 1)


def test_a_tile_counts_if_a_location_in_it_does():
    tokens = torch.zeros(2, 1)
    with real_sizes([(32, 88), (33, 64)], (80, 88)):
        assert valid_units(Geometry((10, 11)), tokens).counts == (4 * 11, 5 * 8)
        assert valid_units(Geometry((10, 11), 4), tokens).counts == (1 * 3, 2 * 2)  # of 3 x 3 tiles


def test_everything_counts_where_nothing_is_known():
    tokens = torch.zeros(2, 1)
    assert valid_units(Geometry((4, 4)), tokens) is None
    with real_sizes([(31, 32), (32, 32)], (32, 32)):
        assert valid_units(Geometry((4, 4)), tokens) is None  # each location holds a real pixel
        assert valid_units(Geometry((32, 32)), tokens) is not None
        assert valid_units(Geometry((32, 32)), torch.zeros(3, 1)) is None  # another batch
        valid_area.read(torch.zeros(2, 3, 16, 16))
        assert valid_units(Geometry((32, 32)), tokens) is None  # a crop
        valid_area.read(torch.zeros(2, 3, 32, 32))
        assert valid_units(Geometry((32, 32)), tokens) is not None
        with real_sizes(None):
            assert valid_units(Geometry((32, 32)), tokens) is None
    assert valid_units(Geometry((32, 32)), tokens) is None


def test_a_call_that_was_not_ended_ends_with_the_one_around_it():
    tokens, outer, inner = torch.zeros(1, 1), object(), object()
    valid_area.enter(outer, [(3, 3)], (4, 4))
    valid_area.enter(inner, [(1, 1)], (4, 4))
    valid_area.leave(object())  # nobody's: nothing happens
    assert valid_units(Geometry((4, 4)), tokens).counts == (1,)
    valid_area.leave(outer)
    assert valid_units(Geometry((4, 4)), tokens) is None


def test_each_of_several_batches_has_its_own_sizes():
    small, large, tokens = torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 32, 32), torch.zeros(2, 1)
    batches = [valid_area.Batch(small, [(16, 8), (16, 16)]), valid_area.Batch(large, [(8, 32), (32, 32)])]
    valid_area.enter(owner := object(), None, (0, 0), batches)
    assert valid_units(Geometry((4, 4)), tokens) is None  # which one is not known yet
    for batch, counts in ((small, (8, 16)), (large, (4, 16)), (small, (8, 16))):
        valid_area.read(batch)
        assert valid_units(Geometry((4, 4)), tokens).counts == counts
    valid_area.read(large.clone())
    assert valid_units(Geometry((4, 4)), tokens) is None
    valid_area.leave(owner)


@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize("scorer", ["LocalGlobalScorer", "MLPScorer", "FeatureNormScorer", "RandomScorer"])
@pytest.mark.parametrize("selector", ["TopKSelector", "ThresholdSelector"])
def test_the_same_decision_alone_and_padded(scorer, selector, cumulative):
    first, second = (decision(scorer, selector, cumulative, ratio) for ratio in (0.7, 0.4))
    for made in (first, second):
        for parameter in made.scorer.parameters():
            torch.nn.init.normal_(parameter)
    x = torch.randn(len(ENDS), GRID[0] * GRID[1], 16)
    tokens = torch.where(valid().mask.unsqueeze(-1), x, 50 * torch.randn(16))  # of padding, anything
    with real_sizes(ENDS, GRID):
        before = first(tokens, Geometry(GRID))
        both = (before, second(tokens, Geometry(GRID), before=before))
    for i, (high, wide) in enumerate(ENDS):
        alone = x[i].view(*GRID, 16)[:high, :wide].reshape(1, high * wide, 16)
        earlier = first(alone, Geometry((high, wide)))
        for mine, ours in zip((earlier, second(alone, earlier.geometry, before=earlier)), both, strict=True):
            mask = ours.keep_mask[i].view(GRID)
            assert torch.equal(mask[:high, :wide], mine.keep_mask.view(high, wide))
            assert mask.sum() == mine.keep_mask.sum() == ours.num_keep[i]
    assert (before.count is None) == (selector == "ThresholdSelector")


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("selector", ["TopKSelector", "GumbelSelector", "ThresholdSelector"])
def test_padding_is_not_drawn_in_training(selector, noise):
    here = valid().mask
    scores = torch.where(here, torch.randn(here.shape), 100.0).requires_grad_()  # padding would win
    made = build(dict(type=selector, **({} if selector != "ThresholdSelector" else dict(momentum=1.0))), Selector, "")
    selection = made.train()(scores, Geometry(GRID), 0.5, noise=noise, valid=valid())
    assert not selection.keep_mask[~here].any() and not selection.gate[~here].any()
    if noise or selector != "GumbelSelector":  # the paper's without a shift follows the scores alone
        assert abs(selection.keep_mask[here].float().mean() - 0.5) < 0.02
    selection.gate.sum().backward()
    assert not scores.grad[~here].any() and scores.grad[here].all()


def test_thresholds_are_of_real_locations():
    here, scores = valid().mask, torch.randn(len(ENDS), 48)
    padded, plain = (ThresholdSelector(momentum=1.0).train() for _ in range(2))
    padded(torch.where(here, scores, -100.0), Geometry(GRID), 0.5, valid=valid())
    plain(scores[here].view(1, -1), Geometry((1, int(here.sum()))), 0.5)
    assert torch.equal(padded.quantiles, plain.quantiles)


def test_thresholds_where_locations_were_dropped_before():
    """Dropped ones lie just below the image's others, among which padding is not."""
    here, scores = valid().mask, torch.randn(len(ENDS), 48)
    before = Selection(Geometry(GRID), here & (torch.rand(here.shape) < 0.5))
    made = ThresholdSelector(momentum=1.0).train()
    made(torch.where(here, scores, -100.0), Geometry(GRID), 0.5, before=before, valid=valid())
    lowest = torch.stack([row[real].min() for row, real in zip(scores, here, strict=True)]).min()
    assert made.quantiles[0] == lowest - 1


def test_everything_is_everything():
    """At 1.0 a network is the dense one: its padding, too."""
    scores = torch.randn(len(ENDS), 48, requires_grad=True)
    selection = TopKSelector().train()(scores, Geometry(GRID), 1.0, valid=valid())
    assert selection.keep_mask.all() and selection.count == 48
    selection.gate.sum().backward()
    assert not scores.grad[~valid().mask].any()


class Diagonal(Scorer):
    """High near the diagonal of each picture, which no scorer could know without the map's size."""

    scores_any = False

    def forward(self, tokens, context):
        grid, valid = context.geometry.grid, context.valid
        scores = torch.full((len(tokens), *grid), -9.0)
        for image, (high, wide) in zip(scores, valid.sizes if valid else [grid] * len(tokens), strict=True):
            ys, xs = torch.arange(high) / high, torch.arange(wide) / wide
            image[:high, :wide] = -(ys[:, None] - xs[None]).abs()
        return scores.flatten(1)


@pytest.mark.parametrize("training", [False, True])
def test_a_scorer_may_read_where_it_is(training):
    made = Decider("place", Diagonal(16), TopKSelector())
    made.keep_ratio = 0.25
    made.train(training)
    whole = made(torch.randn(1, 16, 16), Geometry((4, 4))).keep_mask.view(4, 4)
    assert torch.equal(whole, torch.eye(4, dtype=torch.bool))
    with real_sizes([(4, 4)], (4, 8)):
        part = made.eval()(torch.randn(1, 32, 16), Geometry((4, 8))).keep_mask.view(4, 8)
    assert torch.equal(part[:, :4], whole) and not part[:, 4:].any()
    with pytest.raises(ValueError, match="`share_scorer`: a Diagonal has nothing to share"):
        SharedScorer(Diagonal(16), 16)


def test_one_count_where_images_have_the_same():
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    mask[..., 3] = False
    made = decision("LocalGlobalScorer", cumulative=True)
    with real_sizes([(3, 3), (3, 3)], (3, 4)):
        selection = made(torch.randn(2, 12, 16), Geometry((3, 4)))
    assert selection.count == selection.common_count == 5
    assert not (selection.keep_mask & ~mask.flatten(1)).any()


def test_selections_of_several_counts():
    mask = torch.tensor([[True, True, False], [False, True, False]])
    selection = Selection(Geometry((1, 3)), mask, count=(2, 1))
    assert selection.num_keep == [2, 1] and selection.common_count is None
    assert selection.keep_idx.tolist() == [0, 1, 4] and selection.rest_idx.tolist() == [2, 3, 5]
    extended = selection.with_extra(2)
    assert extended.count == (4, 3) and extended.keep_idx.tolist() == [0, 1, 2, 3, 5, 6, 8]
    before = Selection(Geometry((1, 3)), torch.tensor([[True, True, False], [True, True, True]]), count=(2, 3))
    assert selection.within(before).count == (2, 1)
    whole = Selection(Geometry((1, 3)), torch.ones(2, 3, dtype=torch.bool), count=3)
    assert selection.within(whole).count == (2, 1) and whole.within(whole).count == 3
    assert selection.within(Selection(Geometry((1, 3)), mask)).count is None


def test_losses_are_of_real_locations():
    here = valid().mask
    gate, target = (torch.rand(here.shape) < 0.3).float(), (torch.rand(here.shape) < 0.2).float()
    parts = [row[real] for row, real in zip(gate, here, strict=True)]
    expected = torch.stack([(part.mean() - 0.4).square() for part in parts]).mean()
    torch.testing.assert_close(ratio_loss(gate, 0.4, valid=here), expected)
    torch.testing.assert_close(ratio_loss(gate, 0.4, False, here), (torch.cat(parts).mean() - 0.4).square())
    scores = torch.randn(here.shape)
    torch.testing.assert_close(score_loss(scores, target, here), score_loss(scores[here], target[here]))


def test_a_tile_is_the_mean_of_its_real_locations():
    x = torch.randn(2, 3, 6, 7)
    mask = torch.zeros(2, 6, 7, dtype=torch.bool)
    mask[0, :5, :3] = mask[1] = True
    with real_sizes([(5, 3), (6, 7)], (6, 7)):
        means = unit_features(x, Geometry((6, 7), 4)).unflatten(1, (2, 2))
    torch.testing.assert_close(means[0, :, 0], unit_features(x[:1, :, :5, :3], Geometry((5, 3), 4))[0])
    torch.testing.assert_close(means[0, 1, 0], x[0, :, 4, :3].mean(dim=1))
    torch.testing.assert_close(means[1], unit_features(x[1:], Geometry((6, 7), 4))[0].unflatten(0, (2, 2)))
    assert means.isfinite().all()
