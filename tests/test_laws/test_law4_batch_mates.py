"""Law 4: an image's result does not depend on its batch mates."""

import pytest
import torch
from networks import LIGHT, SELECTORS, in_turn, scorers_of

from mmsparse.apis import record_selections

SCORERS = ("LocalGlobalScorer", "FeatureNormScorer", "RandomScorer", "AttentionScorer")


@pytest.mark.supports("eager")
@pytest.mark.parametrize("network, scorer, selector", in_turn((n, scorers_of(n, *SCORERS), SELECTORS) for n in LIGHT))
def test_alone_or_together(network, scorer, selector):
    model = network.alone(dict(**network.everywhere, selector=dict(type=selector), scorer=dict(type=scorer)))
    model.double()  # batches of other sizes are summed in another order, which could turn near ties in single precision
    x = torch.randn(3, 3, 96, 128, dtype=torch.float64) * torch.tensor([0.1, 1.0, 5.0]).view(3, 1, 1, 1)
    model.train()
    model(torch.randn(2, 3, 96, 128, dtype=torch.float64))  # lets thresholds see some scores, of other pictures
    model.eval()
    with torch.no_grad():
        with record_selections(model) as taken:
            together = model(x)
        for i in range(3):
            for alone, mixed in zip(model(x[i : i + 1]), together, strict=True):
                torch.testing.assert_close(alone[0], mixed[i], rtol=0, atol=1e-10)
    masks = [selection.keep_mask for _, selection in taken]
    if scorer == "RandomScorer":  # looks at no picture
        assert all(torch.equal(mask, mask[:1].expand_as(mask)) for mask in masks)
    else:
        assert any((mask != mask[:1]).any() for mask in masks)
        assert selector != "ThresholdSelector" or any(len(set(selection.num_keep)) > 1 for _, selection in taken)
