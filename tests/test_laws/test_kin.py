"""The laws for classes that share their mechanism with others, on small pictures."""

import pytest
import torch
from network import Network, ids
from part_networks import KIN
from torch import nn

from mmsparse.apis import find_deciders, record_selections, set_keep_ratio
from mmsparse.sparsity import num_keep

SIZE = (64, 96)
# Stock heads whose evaluation gives something else than their training does, such as boxes
OTHERS = ("GARetinaHead", "GARPNHead", "RepPointsHead", "VFNetHead")
OTHERS += ("SOLOHead", "DecoupledSOLOHead", "DecoupledSOLOLightHead")


def pair(network: Network, sparsity) -> tuple[nn.Module, nn.Module]:
    stock, dynamic = (model.double() for model in network.pair(sparsity))
    stock.train(True)
    return stock, dynamic.train(True)


def evaluate(network: Network, model: nn.Module) -> None:
    model.eval()
    if network.name in OTHERS:  # the stock forward alone trains: what is routed is evaluated
        head = getattr(model.part, "head", model.part)
        head.training = True


def outcome(model: nn.Module, x: torch.Tensor) -> tuple[list, dict]:
    """Maps, and the gradients of parameters by a loss that sees every location, none as the opposite of others."""
    model.zero_grad()
    maps = model(x)
    sum((m * torch.linspace(1, 2, m.shape[-1], dtype=x.dtype)).mean() for m in maps).backward()
    return [m.detach() for m in maps], {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.supports("eager")
@pytest.mark.parametrize("network", KIN, ids=ids)
def test_laws(network):
    stock, dynamic = pair(network, dict(keep_ratio=1.0))
    x = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    (maps, grads), (our_maps, our_grads) = outcome(stock, x), outcome(dynamic, x)
    for expected, actual in zip(maps, our_maps, strict=True):  # law 1
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    for name, grad in grads.items():
        if grad is not None:
            torch.testing.assert_close(our_grads[name].view_as(grad), grad, rtol=1e-9, atol=1e-9, msg=name)
    evaluate(network, dynamic)
    with torch.no_grad(), record_selections(dynamic) as taken:
        set_keep_ratio(dynamic, network.everywhere["keep_ratio"][0])
        first, again = dynamic(x), dynamic(x)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))  # law 5
        single = dynamic(x[1:])
        for alone, both in zip(single, first, strict=True):  # law 4
            torch.testing.assert_close(alone[0], both[1], rtol=1e-9, atol=1e-9)
    names = [decider.name for decider in find_deciders(dynamic)]
    assert names and {name for name, _ in taken} == set(names)
    for _, selection in taken[: len(names)]:
        assert set(selection.num_keep) == {num_keep(network.everywhere["keep_ratio"][0], selection.keep_mask.shape[1])}
    assert any(not torch.allclose(a, b, atol=1e-3) for a, b in zip(first, maps, strict=True))  # it routes


@pytest.mark.supports("eager")
@pytest.mark.parametrize("network", KIN, ids=ids)
def test_training_is_evaluation_and_teaches_everything(network):
    _, dynamic = pair(network, dict(**network.everywhere, learn="gate"))
    x = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    maps, grads = outcome(dynamic, x)
    untaught = [name for name, grad in grads.items() if "router" in name and (grad is None or not grad.any())]
    assert untaught == []  # law 8
    evaluate(network, dynamic)
    with torch.no_grad():
        for expected, actual in zip(maps, dynamic(x), strict=True):  # law 2, of the same decisions
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
