"""Scores that regress the gain: what the gates' gradient becomes."""

import pytest
import torch

from mmsparse.models import DynamicConvNeXt, DynamicFPN
from mmsparse.sparsity import Decider, Geometry, LocalGlobalScorer, RandomScorer, Selection, TopKSelector, take_paths
from mmsparse.sparsity.gain import GAIN, STAKE, gain_gate, gain_target


def score_gradient(scores, keep_mask, grad_gate, way=GAIN, alive=None, scale=1.0):
    """What the scores get if the gates get a gradient and the zero has a weight."""
    scores = scores.clone().requires_grad_()
    gate, zero = gain_gate(scores, keep_mask, way, alive)
    assert torch.equal(gate, keep_mask.float()) and zero.item() == 0.0
    torch.autograd.backward([gate, zero], [grad_gate * scale, torch.tensor(scale)])
    return scores.grad


def test_scores_get_the_gradient_of_half_the_mean_squared_error():
    torch.manual_seed(0)
    scores, grad_gate, keep_mask = torch.randn(3, 20), torch.randn(3, 20).exp(), torch.rand(3, 20) > 0.5
    target = gain_target(-grad_gate, torch.ones_like(keep_mask))
    torch.testing.assert_close(score_gradient(scores, keep_mask, grad_gate), (scores - target) / 60)


@pytest.mark.parametrize("way", [GAIN, STAKE])
def test_targets_are_standardised_in_each_picture_and_keep_the_order(way):
    torch.manual_seed(0)
    gain = torch.randn(2, 400) ** 5 * torch.tensor([[1.0], [1e-6]])
    target = gain_target(gain, torch.ones(2, 400, dtype=torch.bool), way)
    torch.testing.assert_close(target.mean(dim=1), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(target.std(dim=1), torch.ones(2), rtol=0, atol=1e-2)
    order = (gain if way == GAIN else gain.abs()).argsort(dim=1)
    assert (target.gather(1, order).diff(dim=1) >= -1e-5).all()
    assert target.abs().max() < 0.6 * (gain[0] / gain[0].std()).abs().max()  # lighter tails


def test_the_scale_of_the_gates_gradient_does_not_matter_but_the_losses_does():
    torch.manual_seed(0)
    scores, grad_gate, keep_mask = torch.randn(2, 30), torch.randn(2, 30), torch.rand(2, 30) > 0.5
    one = score_gradient(scores, keep_mask, grad_gate)
    torch.testing.assert_close(score_gradient(scores, keep_mask, 1e-4 * grad_gate), one)
    scaled = score_gradient(scores, keep_mask, grad_gate, scale=65536.0)  # loss scaling; undone before the step
    torch.testing.assert_close(scaled / 65536.0, one)


def test_pictures_do_not_touch_each_other():
    torch.manual_seed(0)
    scores, grad_gate, keep_mask = torch.randn(2, 30), torch.randn(2, 30), torch.ones(2, 30, dtype=torch.bool)
    both = score_gradient(scores, keep_mask, grad_gate)
    alone = score_gradient(scores[1:], keep_mask[1:], grad_gate[1:])
    torch.testing.assert_close(2 * both[1:], alone)


def test_locations_without_a_gradient_or_dropped_before_are_left_out():
    torch.manual_seed(0)
    scores, grad_gate, keep_mask = torch.randn(1, 30), torch.randn(1, 30), torch.ones(1, 30, dtype=torch.bool)
    grad_gate[:, :5] = 0.0
    alive = torch.ones(1, 30, dtype=torch.bool)
    alive[:, 25:] = False
    found = score_gradient(scores, keep_mask, grad_gate, alive=alive)
    rest = score_gradient(scores[:, 5:25], keep_mask[:, 5:25], grad_gate[:, 5:25])
    assert not found[:, :5].any() and not found[:, 25:].any()
    torch.testing.assert_close(found[:, 5:25], rest)


def test_no_gradient_at_all_moves_nothing():
    assert not score_gradient(torch.randn(2, 9), torch.rand(2, 9) > 0.5, torch.zeros(2, 9)).any()
    one_location = score_gradient(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 1))
    assert torch.equal(one_location, torch.zeros(1, 1))


def test_tried_samples_count_as_what_they_are():
    """A tried location's gradient is scaled by the inverse of the share that is tried; a regression must not be."""
    torch.manual_seed(0)
    rows, worth = torch.randn(400, 4), torch.linspace(0.1, 2.0, 400).unsqueeze(1)
    keep_mask = torch.arange(400).view(1, -1) % 2 == 0
    found = []
    for explore in (1.0, 0.5):
        scores = torch.zeros(1, 400, requires_grad=True)
        gate, zero = gain_gate(scores, keep_mask, GAIN)
        out = take_paths(
            rows,
            Selection(Geometry((20, 20)), keep_mask, gate),
            lambda r, i: -worth[i],
            lambda r, i: 0 * worth[i],
            explore,
        )
        (out.sum() + zero).backward()
        found.append(-scores.grad[0] * (scores.grad[0] != 0).sum())  # the targets
    tried = found[1] != 0
    assert tried[::2].all() and tried[1::2].sum() == 100
    torch.testing.assert_close(found[1][tried], found[0][tried], rtol=0, atol=0.1)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_a_scorer_learns_where_the_slow_path_pays(progress):
    """The slow path lowers the loss where the first channel is high, and raises it elsewhere."""
    torch.manual_seed(0)
    place = Decider("p", LocalGlobalScorer(8), TopKSelector(), learn=GAIN).train()
    place.keep_ratio, place.progress, place.collected = 0.25, progress, True
    optimizer = torch.optim.Adam(place.parameters(), lr=1e-2)
    for _ in range(60):
        tokens = torch.randn(4, 64, 8)
        selection = place(tokens, Geometry((8, 8)))
        rows = tokens.flatten(0, 1)
        out = take_paths(rows, selection, lambda r, _: r[:, :1].tanh(), lambda r, _: torch.zeros_like(r[:, :1]))
        (decided,) = place.pop_aux()
        optimizer.zero_grad()
        (decided.regression - 3 * out.sum()).backward()
        optimizer.step()
    place.eval()
    tokens = torch.randn(4, 64, 8)
    worth = tokens[..., 0].tanh()
    bought = worth[place(tokens, Geometry((8, 8))).keep_mask].mean()
    assert bought > 0.85 * worth.topk(16, dim=1).values.mean()  # chance buys nothing


def test_what_needs_the_ratio_loss_is_refused():
    with pytest.raises(ValueError, match="`learn`='gain': nothing would hold the count of a GumbelSelector.*TopK"):
        DynamicConvNeXt("atto", sparsity=dict(learn="gain", selector=dict(type="GumbelSelector")))
    with pytest.raises(ValueError, match=r"`learn` to be one of \('gate', 'gain'.*but got 'labels'"):
        DynamicFPN([8, 8], 8, 2, sparsity=dict(learn="labels"))


def test_scores_that_cannot_learn_stay_as_they_are():
    place = Decider("p", RandomScorer(8), TopKSelector(), learn=GAIN).train()
    place.keep_ratio = 0.5
    place(torch.randn(2, 16, 8), Geometry((4, 4)))
    (decided,) = place.pop_aux()
    assert decided.regression is None and not decided.selection.gate.requires_grad
