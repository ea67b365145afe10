"""What users switch on for any network: half precision, activation checkpointing, counting what cannot be counted."""

import copy

import pytest
import torch
from network import ids
from networks import BACKBONES, LIGHT, unless_often
from replay import replay

from mmsparse import pop_aux
from mmsparse.apis import find_deciders, record_selections


def run(model, x):
    torch.manual_seed(3)
    image = x.clone().requires_grad_()
    maps = model(image)
    sum((m * m.detach().roll(1)).mean() for m in maps).backward()
    return [m.detach() for m in maps] + [image.grad] + [p.grad for p in model.parameters()]


@pytest.mark.parametrize(
    "network, explore", [(n, e) for n in BACKBONES for e in n.explore], ids=lambda v: getattr(v, "name", v)
)
def test_checkpointing_changes_nothing(network, explore):
    plain, saving = (
        network.dynamic(sparsity=dict(**network.everywhere, explore=explore), with_cp=with_cp).train()
        for with_cp in (False, True)
    )
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 96)
    results = [run(model, x) for model in (plain, saving)]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    places = len(network.everywhere["places"])
    assert len(pop_aux(plain)) == len(pop_aux(saving)) == places  # what a place decided is left once


@pytest.mark.parametrize("network", [pytest.param(each, marks=unless_often(each)) for each in LIGHT], ids=ids)
def test_training_in_bfloat16(network, monkeypatch):
    """Close to single precision, where the same locations are selected.

    A rounding errs by 2^-8 at most, and errors of many do not add up but average. The gradients of all dense
    parameters err by 0.02 then, and by 0.1 where the stock network's own do: behind norms of what is nearly constant,
    before an exponential (0.06 of the stock FCOS head with one of four seeds), and where places are sampled (0.14 of
    the stock deformable encoder). What scorers learn is made of such gradients, and errs by 0.002 to 0.06 with another
    seed; so it is the median of three seeds that counts.
    """
    bound = 0.2 if network.name.startswith(("swin", "convnextv2")) else 0.05
    errors = []
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        model = network.alone(network.everywhere)
        model.train()
        x = torch.randn(2, 3, 96, 96)
        model(x)
        with monkeypatch.context() as patch:
            replay(patch, model, [decided.selection for decided in pop_aux(model)])
            losses, dense, scorers = zip(*[a_step(network, model, x, half) for half in (True, False)], strict=True)
        assert abs(losses[0] - losses[1]) < 0.01 * losses[1]
        if seed == 0:
            assert apart(*dense) < (0.1 if network.name in ("FCOSHead", "encoder") else bound)
        errors.append(float(apart(*scorers)) if len(scorers[1]) else 0.0)
    assert sorted(errors)[1] < 0.05


def a_step(network, model, x, half):
    """The loss of a training step, and the gradients of dense parameters and of scorers, each in one row."""
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        maps = model(x)
    loss = sum(m.float().square().mean() for m in maps)
    (loss + sum(d.regression for d in pop_aux(model) if d.regression is not None)).backward()
    parameters = {name: p for name, p in model.named_parameters() if network.apart not in name}
    assert all(p.grad is not None for p in parameters.values())
    rows = [[], []]
    for name, parameter in parameters.items():
        rows["router.decisions" in name or "router.shared_scorer" in name].append(parameter.grad.flatten())
    return loss.item(), *(torch.cat(row or [torch.zeros(0)]) for row in rows)


def apart(actual, expected):
    return (actual - expected).norm() / expected.norm()


@pytest.mark.parametrize("network", LIGHT, ids=ids)
def test_routed_evaluation_in_bfloat16(network, monkeypatch):
    """Close to single precision, where the same locations are selected (near ties fall either way)."""
    _, model = network.pair(network.everywhere)
    model.eval()
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        with record_selections(model) as taken:
            exact = model(x)
        for decision, (_, selection) in zip(find_deciders(model), taken, strict=True):
            monkeypatch.setattr(decision, "forward", lambda *_, selection=selection, **__: selection)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(x)
    for a, b in zip(rounded, exact, strict=True):
        assert (a.float() - b).abs().mean() < 0.05 * b.abs().mean()


@pytest.mark.parametrize("network", LIGHT, ids=ids)
def test_a_copy_after_a_step_is_independent(network):
    model = network.dynamic(sparsity=network.everywhere).train()
    run(model, torch.randn(1, 3, 64, 96))
    pop_aux(model)
    twin = copy.deepcopy(model)
    run(twin, torch.randn(1, 3, 64, 96))
    assert pop_aux(model) == []
