"""Law 2: a training forward with a given selection = an evaluation forward with the same selection."""

import pytest
import torch
from networks import LIGHT, SELECTORS, in_turn

from mmsparse import pop_aux
from mmsparse.apis import find_deciders
from mmsparse.sparsity import Selection


@pytest.mark.supports("eager")
@pytest.mark.parametrize("network, explore, selector", in_turn((n, n.explore, SELECTORS) for n in LIGHT))
def test_same_selection_same_maps(network, explore, selector, monkeypatch):
    model = network.alone(dict(**network.everywhere, selector=dict(type=selector), explore=explore))
    model.double().train()  # the rows are packed otherwise, which rounds otherwise
    x = torch.randn(2, 3, 160, 128, dtype=torch.float64)
    trained = model(x)
    selections = [decided.selection for decided in pop_aux(model)]
    assert any(s.keep_mask.any() and not s.keep_mask.all() for s in selections)
    model.eval()
    for counts in (None, count_of):  # found out in the forward, or known beforehand
        for decision, selection in zip(find_deciders(model), selections, strict=True):
            frozen = Selection(selection.geometry, selection.keep_mask, count=counts and counts(selection))
            monkeypatch.setattr(decision, "forward", lambda *_, frozen=frozen, **__: frozen)
        with torch.no_grad():
            for a, b in zip(trained, model(x), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    if selector == "TopKSelector":
        assert all(type(selection.count) is int for selection in selections)  # one for all pictures


def count_of(selection):
    counts = selection.keep_mask.sum(dim=1).tolist()
    return counts[0] if len(set(counts)) == 1 else tuple(counts)
