"""Law 8: every parameter gets a gradient in one training step; the ratio loss alone drives the keep ratio."""

import pytest
import torch
from network import ids
from networks import FAMILIES, LIGHT, SELECTORS, in_turn, unless_often

from mmsparse import pop_aux
from mmsparse.apis import find_deciders
from mmsparse.sparsity import ratio_loss

PROGRESS = (0.0, 0.5, 1.0)  # all-dense start, on the way, at the budget


@pytest.mark.supports("eager")
@pytest.mark.parametrize("network, selector, progress", in_turn((n, SELECTORS, PROGRESS) for n in LIGHT))
def test_every_parameter_gets_a_gradient(network, selector, progress):
    model = network.alone(dict(**network.everywhere, selector=dict(type=selector), learn="gate"))
    model.train()
    for decision in find_deciders(model):
        decision.progress = progress
    sum((m * torch.randn_like(m)).mean() for m in model(torch.randn(2, 3, 96, 128))).backward()
    parameters = {name: p for name, p in model.named_parameters() if network.apart not in name}
    without = [name for name, p in parameters.items() if p.grad is None]
    assert without == []
    zero = [name for name, p in parameters.items() if not p.grad.any()]
    assert all(progress == 0.0 and "fast_paths" in name for name in zero), zero  # nobody takes the fast path then


@pytest.mark.parametrize(
    "network, selector, progress", in_turn((n, ["TopKSelector", "ThresholdSelector"], [0.0, 1.0]) for n in LIGHT)
)
def test_scores_that_regress_the_gain_get_one_by_it_alone(network, selector, progress):
    """The loss gives scorers nothing but the target; with no weight on the regression they stay as they are."""
    model = network.alone(dict(**network.everywhere, selector=dict(type=selector), learn="gain"))
    model.train()
    for decision in find_deciders(model):
        decision.progress = progress
    x = torch.randn(2, 3, 96, 128)
    for weight in (0.0, 1.0):
        model.zero_grad()
        loss = sum((m * torch.randn_like(m)).mean() for m in model(x))
        (loss + weight * sum(d.regression for d in pop_aux(model))).backward()
        parameters = {name: p for name, p in model.named_parameters() if network.apart not in name}
        zero = [name for name, p in parameters.items() if not p.grad.any()]
        if weight:
            assert all(progress == 0.0 and "fast_paths" in name for name in zero), zero
        else:
            assert {name for name, _ in model.named_parameters() if ".decisions." in name} <= set(zero)


@pytest.mark.parametrize(
    "network, per_image",
    [
        *(pytest.param(network, True, id=ids(network), marks=unless_often(network)) for network in LIGHT),
        *(
            pytest.param(
                network, False, id=f"{ids(network)}-of-the-batch", marks=() if number == 2 else pytest.mark.slow
            )
            for number, network in enumerate(FAMILIES)
        ),
    ],
)
def test_ratio_loss_alone_reaches_the_target(network, per_image):
    model = network.alone(dict(**network.some, selector=dict(type="GumbelSelector")))
    model.train()
    optimizer = torch.optim.Adam([p for name, p in model.named_parameters() if "router" in name], lr=3e-3)
    x = torch.randn(4, 3, 128, 128)
    history = []
    for _ in range(70):
        model(x)
        decided = pop_aux(model)
        loss = sum(ratio_loss(d.selection.gate, d.keep_ratio, per_image) for d in decided)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append([d.selection.keep_mask.float().mean().item() for d in decided])
    measured = torch.tensor(history[-20:]).mean(dim=0)
    torch.testing.assert_close(measured, torch.tensor(network.some["keep_ratio"]), rtol=0, atol=0.05)
