"""Law 3: rows come back to their own place; kept and rest are disjoint and all; counts are exact."""

import pytest
import torch

from mmsparse.sparsity import Geometry, Selection, TopKSelector
from mmsparse.sparsity.selection import by_counting

GRIDS = [(1, 1), (3, 5), (14, 14)]


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("grid", GRIDS)
def test_split_join(grid, ratio):
    n = grid[0] * grid[1]
    selection = Selection(Geometry(grid), torch.rand(3, n) < ratio)
    rows = torch.randn(3 * n, 7)
    kept, rest = selection.split(rows)
    assert torch.equal(selection.join(kept, rest), rows)
    together = torch.cat([selection.keep_idx, selection.rest_idx])
    assert torch.equal(together.sort().values, torch.arange(3 * n))
    for idx in (selection.keep_idx, selection.rest_idx):
        assert torch.equal(idx, idx.sort().values)
    assert torch.equal(selection.keep_mask.flatten().nonzero().squeeze(1), selection.keep_idx)
    assert sum(selection.num_keep) == len(selection.keep_idx)


@pytest.mark.parametrize("ratio, expected", [(0.7, 137), (0.5, 98), (0.7 - 0.4, 59), (1e-6, 0), (0.5 / 196, 1)])
def test_exact_counts(ratio, expected):
    selection = TopKSelector().eval()(torch.randn(4, 196), Geometry((14, 14)), ratio)
    assert selection.num_keep == [expected] * 4
    assert selection.keep_mask.sum(1).tolist() == [expected] * 4
    assert len(selection.keep_idx) == 4 * expected and len(selection.rest_idx) == 4 * (196 - expected)


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 1.0])
def test_rows_are_found_by_counting_on_other_devices(ratio, monkeypatch):
    """Not every torch that is allowed has `nonzero_static` on CUDA, and `nonzero` would wait for the device."""
    mask = torch.rand(3, 35) < ratio
    count = tuple(mask.sum(dim=1).tolist())
    rows = mask.flatten().nonzero().squeeze(1)
    assert torch.equal(by_counting(mask.flatten(), len(rows)), rows)

    def refuse(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(torch, "nonzero_static", refuse)
    elsewhere = Selection(Geometry((5, 7)), mask.to("meta"), count=count)  # has no values, so nobody can wait for them
    assert elsewhere.keep_idx.shape == rows.shape and elsewhere.rest_idx.shape == (105 - len(rows),)


def test_join_gradients_reach_both_paths():
    selection = Selection(Geometry((2, 3)), torch.tensor([[True, False, True, False, False, True]]))
    kept, rest = torch.zeros(3, 2, requires_grad=True), torch.zeros(3, 2, requires_grad=True)
    weight = torch.arange(12.0).view(6, 2)
    (selection.join(kept, rest) * weight).sum().backward()
    assert torch.equal(kept.grad, weight[[0, 2, 5]])
    assert torch.equal(rest.grad, weight[[1, 3, 4]])
