import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmsparse.analysis import compare_latency, count_macs
from mmsparse.analysis.focus import _covered
from mmsparse.models import DynamicConvNeXt
from mmsparse.sparsity import Geometry, Selection


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 3, padding=1)
        self.neck = nn.Conv2d(8, 8, 1)
        self.bbox_head = nn.Linear(8, 5)

    def forward(self, x):
        return self.bbox_head(self.neck(self.backbone(x)).flatten(2).transpose(1, 2))


def test_macs_are_split_by_part():
    net, x = Net(), torch.randn(1, 3, 10, 12)
    macs = count_macs(net, lambda: net(x))
    assert (macs.backbone, macs.neck, macs.head) == (120 * 8 * 27, 120 * 64, 120 * 40)
    assert macs.total == macs.backbone + macs.neck + macs.head
    assert net.backbone._forward_hooks == {}


def test_scorers_are_counted_and_part_of_the_backbone():
    net = nn.Module()
    net.backbone = DynamicConvNeXt(arch="atto", gap_before_final_norm=False, sparsity={}).eval()
    macs = count_macs(net, lambda: net.backbone(torch.randn(1, 3, 64, 96)))
    scorer = net.backbone.router.decisions["2_1"].scorer
    one = count_macs(scorer, lambda: scorer(torch.zeros(1, 4 * 6, scorer.channels))).total
    assert macs.scorers == 3 * one > 0
    assert macs.total == macs.backbone


def test_attention_is_counted():
    q = torch.randn(2, 4, 50, 16)
    net = nn.Identity()
    assert count_macs(net, lambda: F.scaled_dot_product_attention(q, q, q)).total == 2 * 2 * 4 * 50 * 50 * 16


def test_latency_compares_within_rounds():
    result = compare_latency({"slow": lambda: time.sleep(0.02), "fast": lambda: time.sleep(0.002)}, rounds=5, warmup=1)
    assert result["slow"].speedup == 1.0
    assert result["fast"].speedup > 2 and result["fast"].median < result["slow"].median
    assert result["slow"].p10 <= result["slow"].median <= result["slow"].p90
    with pytest.raises(ValueError, match="`rounds`"):
        compare_latency({"a": lambda: None}, rounds=0)


def test_cells_in_boxes():
    everywhere = Selection(Geometry((4, 4)), torch.ones(1, 16, dtype=torch.bool))
    covered = _covered(torch.tensor([[0.0, 0.0, 20.0, 10.0]]), everywhere, (40, 40))
    assert covered.tolist() == [[True, True, False, False]] + [[False] * 4] * 3


def test_sparse_products_and_weighted_sums_are_counted():
    """Of the entries that there are, not of the shapes."""
    begin, columns = torch.tensor([0, 2, 2, 5]), torch.tensor([1, 3, 0, 1, 2])
    pattern = torch.sparse_csr_tensor(begin, columns, torch.zeros(5), size=(3, 4))
    left, right, table = torch.randn(3, 7), torch.randn(7, 4), torch.randn(4, 11)
    model = torch.nn.Identity()
    assert count_macs(model, lambda: torch.sparse.sampled_addmm(pattern, left, right)).total == 5 * 7
    weights = torch.rand(5)

    def bags(**more):
        return torch.nn.functional.embedding_bag(columns, table, begin[:-1], mode="sum", **more)

    assert count_macs(model, lambda: bags(per_sample_weights=weights)).total == 5 * 11
    assert count_macs(model, bags).total == 0


def test_macs_of_what_is_split_off_a_parameter():
    """Deformable DETR gives half of its query embeddings to a layer."""

    class Halved(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Parameter(torch.zeros(5, 8))
            self.layer = torch.nn.Linear(4, 3)

        def forward(self):
            return self.layer(self.embedding.split(4, dim=1)[0])

    model = Halved()
    assert count_macs(model, model).total == 5 * 4 * 3
