"""Law 5: evaluation is deterministic: no noise, twice the same bits."""

import pytest
import torch
from networks import LIGHT, SELECTORS, in_turn, scorers_of

SCORERS = ("LocalGlobalScorer", "RandomScorer", "AttentionScorer")


@pytest.mark.parametrize("network, scorer, selector", in_turn((n, scorers_of(n, *SCORERS), SELECTORS) for n in LIGHT))
def test_twice_the_same_bits(network, scorer, selector):
    model = network.alone(dict(**network.everywhere, selector=dict(type=selector), scorer=dict(type=scorer)))
    model.eval()
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        first = model(x)
        state = torch.random.get_rng_state()
        second = model(x)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(state, torch.random.get_rng_state())  # it drew nothing from the global generator
