"""ATS: the sampling beside a plain formula, the network beside plain loops, budgets of each picture's own, the laws."""

import re

import numpy as np
import pytest
import torch
from commands import tool
from counting import macs_of
from mmpretrain.models import VisionTransformer
from scenes import make, options

from mmsparse import pop_aux, set_keep_ratio
from mmsparse.apis import dense_twin, record_selections
from mmsparse.deploy.check import check_exportable
from mmsparse.models import DynamicViT
from mmsparse.sparsity import Geometry, Selection, Valid
from projects.ats import InverseSelector

CONFIG = "projects/ats/configs/ats-vit-nano_fcn_scenes.py"
MICRO = dict(
    arch=dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96), img_size=64, out_type="featmap",
    out_indices=[0, 1, 2, 3],
)  # fmt: skip
SPARSITY = dict(
    places=[1, 2, 3], keep_ratio=[0.999, 0.7, 0.5], scorer=dict(type="ValueAttentionScorer"),
    selector=dict(type="InverseSelector"), cumulative=True, keys="entering",
)  # fmt: skip
COUNTS = [16, 11, 8]  # the most tokens at each place, of 16


def micro(**more):
    torch.manual_seed(0)
    model = DynamicViT(**MICRO, sparsity={**SPARSITY, **more})
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, parameter[0].numel() ** -0.5)
    with torch.no_grad():
        for layer in model.layers:
            layer.attn.qkv.weight[:96] *= 2  # attention that differs from token to token
    return model


def pictures():
    """Of different contents."""
    return torch.randn(3, 3, 64, 64) * torch.tensor([0.1, 1.0, 4.0]).view(3, 1, 1, 1)


def sampled(share, count):
    """Numbers of the tokens that the inverse of the distribution gives at ``count`` levels."""
    order = np.argsort(share, kind="stable")
    reached = np.cumsum(share[order])
    reached = (reached - reached.min()) / (reached.max() - reached.min())
    levels = np.linspace(reached[reached > 0].min(), 1.0, count) if count > 1 else [1.0]
    return {int(order[np.abs(reached - level).argmin()]) for level in levels}


@pytest.mark.parametrize("count", [1, 2, 7, 20, 40])
@pytest.mark.parametrize("spread", [0.0, 0.5, 4.0])
def test_samples_are_those_of_the_formula(count, spread):
    scores = torch.rand(5, 40, generator=torch.Generator().manual_seed(count)) * 0.1
    scores += torch.linspace(0, spread, 40)
    selection = InverseSelector().eval()(scores, Geometry((5, 8)), min(count / 40, 0.999))
    for row, mask in zip(scores.double().softmax(dim=1).numpy(), selection.keep_mask.numpy(), strict=True):
        assert set(np.flatnonzero(mask).tolist()) == sampled(row, count)
    assert max(selection.num_keep) <= count


def test_what_was_dropped_is_as_if_it_were_not_there():
    scores = torch.randn(4, 12)
    before = Selection(Geometry((3, 4)), torch.rand(4, 12) < 0.6)
    mask = InverseSelector().eval()(scores, Geometry((3, 4)), 0.5, before=before).keep_mask
    for row, kept, alive in zip(scores.double(), mask, before.keep_mask, strict=True):
        left = alive.nonzero().squeeze(1).tolist()
        assert {i for i in range(12) if kept[i]} == {left[i] for i in sampled(row[alive].softmax(0).numpy(), 6)}


def test_padding_has_no_sample_and_no_share_of_the_levels():
    scores, mask = torch.randn(2, 12), torch.ones(2, 12, dtype=torch.bool)
    mask[0] = torch.tensor([1, 1, 1, 0] * 2 + [0] * 4)
    kept = InverseSelector().eval()(scores, Geometry((3, 4)), 0.5, valid=Valid(mask, ((2, 3), (3, 4)))).keep_mask
    for row, chosen, real, count in zip(scores.double(), kept, mask, (3, 6), strict=True):
        left = real.nonzero().squeeze(1).tolist()
        assert {i for i in range(12) if chosen[i]} == {left[i] for i in sampled(row[real].softmax(0).numpy(), count)}


def test_one_token_with_all_of_it_is_enough():
    """Of equal tokens as many as asked for; of one with nearly everything: it, and both ends of the others."""
    scores = torch.stack([torch.zeros(16), torch.tensor([9.0] + [0.0] * 15)])
    assert InverseSelector().eval()(scores, Geometry((4, 4)), 0.5).num_keep == [8, 3]


@pytest.mark.parametrize("numbers", [[1], [0]])
def test_few_tokens(numbers):
    before = Selection(Geometry((2, 2)), torch.arange(4)[None] < numbers[0])
    for keep_ratio in (0.25, 0.999):
        assert InverseSelector().eval()(torch.randn(1, 4), Geometry((2, 2)), keep_ratio, before=before).num_keep == (
            numbers
        )


def plain_network(model, x):
    """One picture through the stock network's weights by loops over blocks: last tokens kept, and which, by place."""
    stock = VisionTransformer(**MICRO)
    stock.load_state_dict(model.state_dict(), strict=False)
    inputs = []
    stock.layers[0].register_forward_pre_hook(lambda layer, args: inputs.append(args[0]))
    stock.eval()
    stock(x)
    rows, names, taken = inputs[0][0], list(range(16)), []
    for number, layer in enumerate(stock.layers):
        query, key, value = layer.attn.qkv(layer.ln1(rows)).view(len(rows), 3, 3, 16).permute(1, 2, 0, 3)
        attention = (query @ key.transpose(1, 2) / 4.0).softmax(dim=-1)  # (heads, n, n)
        if number:
            score = attention[:, 0, 1:].sum(dim=0) * layer.attn.qkv(layer.ln1(rows))[1:, 96:].norm(dim=-1)
            chosen = sorted(sampled((score / score.sum()).double().numpy(), COUNTS[number - 1]))
            names = [names[i] for i in chosen]
            index = torch.tensor([0] + [i + 1 for i in chosen])
            rows, attention = rows[index], attention[:, index]
            taken.append(names)
        rows = rows + layer.attn.proj((attention @ value).transpose(0, 1).flatten(1))
        rows = layer.ffn(layer.ln2(rows), identity=rows)
    return stock.ln1(rows), taken


@torch.no_grad()
def test_the_network_is_that_of_plain_loops():
    """Sampled tokens aggregate from all that entered their block, and whoever is not sampled is gone behind it."""
    model, x = micro().eval(), pictures()
    with record_selections(model) as decided:
        maps = model(x)[-1].flatten(2).transpose(1, 2)
    assert len({tuple(selection.num_keep) for _, selection in decided}) > 1
    for i in range(3):
        rows, taken = plain_network(model, x[i : i + 1])
        assert [s.keep_mask[i].nonzero().squeeze(1).tolist() for _, s in decided] == taken
        torch.testing.assert_close(maps[i, taken[-1]], rows[1:], rtol=0, atol=1e-5)


@torch.no_grad()
def test_counts_are_each_pictures_own_and_never_more_than_the_budget():
    model = micro().eval()
    with record_selections(model) as decided:
        model(pictures())
    for (_, selection), most in zip(decided, COUNTS, strict=True):
        assert max(selection.num_keep) <= most
    assert len(set(decided[-1][1].num_keep)) > 1


@torch.no_grad()
def test_a_token_that_is_not_sampled_keeps_its_value():
    model = micro().eval()
    model.ln1 = torch.nn.Identity()
    with record_selections(model) as decided:
        maps = [out.flatten(2).transpose(1, 2) for out in model(pictures())]
    for (_, selection), before, after in zip(decided, maps[:-1], maps[1:], strict=True):
        assert torch.equal(after[~selection.keep_mask], before[~selection.keep_mask])


@torch.no_grad()
def test_everything_kept_is_the_dense_network():
    model, x = micro().eval(), pictures()
    stock = VisionTransformer(**MICRO)
    stock.load_state_dict(model.state_dict())  # nothing of ours has parameters
    stock.eval()
    with dense_twin(model):
        torch.testing.assert_close(model(x), stock(x), rtol=0, atol=1e-5)


@torch.no_grad()
def test_neither_chance_nor_other_pictures_change_a_result():
    model, x = micro().eval().double(), pictures().double()
    together = model(x)
    assert all(torch.equal(a, b) for a, b in zip(model(x), together, strict=True))
    for i in range(3):
        torch.testing.assert_close([m[0] for m in model(x[i : i + 1])], [m[i] for m in together], rtol=0, atol=1e-10)


def test_training_computes_what_evaluation_does():
    model, x = micro().double(), pictures().double()
    with torch.no_grad():
        wanted = model.eval()(x)
    got = model.train()(x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    sum(m.square().mean() for m in got).backward()
    assert all(p.grad is not None and p.grad.any() for name, p in model.named_parameters())
    assert not any(aux.selection.gate.requires_grad for aux in pop_aux(model))


@torch.no_grad()
def test_a_smaller_budget_of_the_same_weights_costs_less():
    model = micro().eval()
    full = macs_of(model, 64, 64)
    set_keep_ratio(model, [0.5, 0.4, 0.25])
    assert macs_of(model, 64, 64) < full


def test_an_export_is_refused():
    with pytest.raises(ValueError, match="InverseSelector keeps another number of units of each picture"):
        check_exportable(micro(), padded=False)


def test_trains_and_evaluates(tmp_path):
    data = make(tmp_path / "data")
    args = ["--work-dir", str(tmp_path), *options(data, iters=2), "load_from=None"]
    tool("train", CONFIG, *args)
    text = tool("test", CONFIG, str(tmp_path / "iter_2.pth"), "--macs-pictures", "2", *args)
    dense, executed = map(float, re.search(r"backbone +([\d.]+) +([\d.]+)", text).groups())
    assert executed < dense and "mIoU" in text
