"""What selectors promise besides counts: where gates have gradients, when noise ends, what a place is judged by."""

import pytest
import torch

from mmsparse.sparsity import (
    Decider,
    Geometry,
    GumbelSelector,
    Scorer,
    Selection,
    ThresholdSelector,
    TopKSelector,
    real_sizes,
)


def slope(scores):
    """The derivative of the sigmoid."""
    return scores.sigmoid() * (1 - scores.sigmoid())


def test_gates_have_the_gradient_of_a_sigmoid_about_the_last_that_is_kept():
    scores = torch.tensor([[3.0, 9.0, 7.0, 4.0], [0.0, -1.0, -2.0, -9.0]], requires_grad=True)
    selection = TopKSelector(tau=2.0).train()(scores, Geometry((1, 4)), 0.5, noise=0.0)
    (grad,) = torch.autograd.grad(selection.gate.sum(), scores)
    last = torch.tensor([[7.0], [-1.0]])
    torch.testing.assert_close(grad, slope((scores.detach() - last) / 2) / 2)


def test_thresholds_run_with_the_scores():
    """The first batch counts as it is, later ones by ``momentum``."""
    selector = ThresholdSelector(momentum=0.25).train()
    for middle in (0.0, 8.0):
        selector(torch.linspace(-1, 1, 65).view(1, 65) + middle, Geometry((5, 13)), 0.5, noise=0.0)
    torch.testing.assert_close(selector.quantiles, torch.linspace(-1, 1, 65) + 2.0)


@pytest.mark.parametrize("noise, shift", [(1.0, 1.0), (0.5, 1.0), (0.25, 0.5), (0.0, 0.0)])
def test_the_shift_that_holds_a_count_fades(noise, shift):
    scores = torch.full((1, 20000), 3.0)
    kept = GumbelSelector().train()(scores, Geometry((100, 200)), 0.5, noise=noise).keep_mask.float().mean()
    torch.testing.assert_close(kept, torch.tensor(3.0 - 3.0 * shift).sigmoid(), rtol=0, atol=0.03)


class Listening(Scorer):
    def forward(self, tokens, context):
        self.alive = context.alive
        return tokens[..., 0]


def test_padding_is_nobodys_context_behind_a_place_that_kept_everything():
    """As the first places do while training starts dense: its padding, too."""
    made = Decider("second", Listening(4), TopKSelector(), cumulative=True).train()
    made.keep_ratio, made.progress = 0.5, 1.0
    here = torch.tensor([[True, True, False, True, True, False]])
    whole = Selection(Geometry((2, 3)), torch.ones(1, 6, dtype=torch.bool), count=6)
    with real_sizes([(2, 2)], (2, 3)):
        made(torch.randn(1, 6, 4), whole.geometry, before=whole)
    assert torch.equal(made.scorer.alive, here)


def exact(learn):
    made = Decider("place", Listening(4), TopKSelector(), detach=False, cumulative=True, learn=learn).train()
    made.keep_ratio = 0.5
    return made


@pytest.mark.parametrize("learn", ["gate", "gain", "stake"])
def test_with_exact_counts_what_is_dropped_is_judged_up_to_the_next_place(learn):
    """A later gate tells an earlier one of what it keeps itself, and of nothing that it could not choose from."""
    first, second = exact(learn), exact(learn)
    second.keep_ratio = 0.25
    tokens = torch.randn(1, 64, 4, requires_grad=True)
    early = first(tokens, Geometry((8, 8)))
    late = second(torch.randn(1, 64, 4, requires_grad=True), Geometry((8, 8)), before=early)
    assert early.keep_mask.sum() == 32 and late.keep_mask.sum() == 16
    (grad,) = torch.autograd.grad(late.gate.sum(), early.gate)
    assert torch.equal(grad, late.keep_mask.float())
