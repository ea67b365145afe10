"""SaiT: the importance by hand, budgets by mass, what teaches the scores, and one model at many budgets."""

import copy
import itertools
import re

import pytest
import torch
from commands import tool
from mmengine.model import BaseModel
from mmpretrain.models import VisionTransformer
from scenes import make, options

from mmsparse import set_keep_ratio
from mmsparse.apis import find_deciders, record_selections
from mmsparse.engine import SparsityHook
from mmsparse.models import DynamicViT
from mmsparse.sparsity import Geometry
from projects.sait import ImportanceSelector, TokenDistillHook

CONFIG = "projects/sait/configs/sait-vit-nano_fcn_scenes.py"
MICRO = dict(
    arch=dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96), img_size=64, out_type="featmap"
)
SPARSITY = dict(
    places=[1], keep_ratio=[0.5], scorer=dict(type="TokenImportanceScorer"),
    selector=dict(type="ImportanceSelector"), detach=False,
)  # fmt: skip


def micro(kind="column", **more):
    torch.manual_seed(0)
    scorer = dict(type="TokenImportanceScorer", kind=kind)
    model = DynamicViT(**MICRO, sparsity=dict(**{**SPARSITY, "scorer": scorer}, **more))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, parameter[0].numel() ** -0.5)
    return model


def attention_maps(model, x):
    """Of each block of the stock network, (B, heads, 1 + N, N): the softmax is over the tokens of the picture."""
    stock = VisionTransformer(**MICRO)
    stock.load_state_dict(model.state_dict(), strict=False)
    maps = []

    def read(layer, args):
        query, key, _ = layer.attn.qkv(layer.ln1(args[0])).unflatten(-1, (3, 3, 16)).permute(2, 0, 3, 1, 4)
        maps.append((query @ key[:, :, 1:].transpose(-1, -2) / 4.0).softmax(dim=-1))

    for layer in stock.layers:
        layer.register_forward_pre_hook(read)
    stock.eval()
    with torch.no_grad():
        stock(x)
    return maps


@pytest.mark.parametrize("kind", ["column", "class"])
def test_importance_is_the_attention_that_tokens_get(kind):
    model, x, scores = micro(kind).eval(), torch.randn(2, 3, 64, 64), []
    find_deciders(model)[0].scorer.register_forward_hook(lambda m, a, out: scores.append(out))
    model(x)
    attention = attention_maps(model, x)[1].mean(dim=1)  # of the place's block, over heads
    expected = attention[:, 1:].mean(dim=1) if kind == "column" else attention[:, 0]
    torch.testing.assert_close(scores[0].exp(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mass", [0.3, 0.75, 1.0])
def test_mass_keeps_the_smallest_set(mass):
    scores = torch.randn(3, 6).mul(2).log_softmax(dim=1)
    mask = ImportanceSelector(mass).eval()(scores, Geometry((2, 3)), 0.5).keep_mask
    for row, kept in zip(scores.exp().tolist(), mask.tolist(), strict=True):
        enough = [
            set(chosen)
            for size in range(1, 7)
            for chosen in itertools.combinations(range(6), size)
            if sum(row[i] for i in chosen) >= mass - 1e-6
        ]
        smallest = [chosen for chosen in enough if len(chosen) == min(map(len, enough))]
        best = max(smallest, key=lambda chosen, row=row: sum(row[i] for i in chosen))
        assert {i for i in range(6) if kept[i]} == best


def test_an_empty_picture_and_a_crowded_one_differ_in_count():
    """Importance in one corner, and everywhere."""
    scores = torch.stack([torch.linspace(0, -20, 16), torch.zeros(16)]).log_softmax(dim=1)
    assert ImportanceSelector(0.8).eval()(scores, Geometry((4, 4)), 0.5).num_keep == [2, 13]
    assert ImportanceSelector().eval()(scores, Geometry((4, 4)), 0.5).num_keep == [8, 8]


def test_selections_do_not_teach_the_scores():
    model = micro().train()
    with record_selections(model) as taken:
        model(torch.randn(1, 3, 64, 64))
    selection = taken[0][1]
    assert selection.gate is not None and not selection.gate.requires_grad and selection.num_keep == [8]


class Toy(BaseModel):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs, data_samples=None, mode="tensor"):
        maps = self.backbone(inputs)
        return dict(loss_toy=maps[-1].square().mean()) if mode == "loss" else maps


@pytest.mark.parametrize("keep_ratio", [1.0, 0.5])
def test_the_teachers_late_attention_teaches_them(keep_ratio):
    """In dense steps, too; the loss by hand, and it sends gradients into the place's queries and keys."""
    model, x = Toy(micro()).train(), torch.randn(2, 3, 64, 64)
    set_keep_ratio(model, keep_ratio)
    SparsityHook(anneal=None).attach(model)
    TokenDistillHook(token_weight=2.0, blocks=2, feature_weight=0.5).attach(model)
    loss = model(x, mode="loss")["loss_distill_token"]
    maps = attention_maps(model.backbone, x)
    target = torch.stack([a[:, :, 0].mean(dim=1) for a in maps[-2:]]).mean(dim=0)
    own = maps[1][:, :, 1:].mean(dim=(1, 2))
    torch.testing.assert_close(loss, 2.0 * (target * (target / own).log()).sum(dim=1).mean(), rtol=1e-4, atol=1e-6)
    loss.backward()
    assert model.backbone.layers[1].attn.qkv.weight.grad[:96].abs().sum() > 0
    assert model.backbone.layers[1].attn.qkv.weight.grad[96:].abs().sum() == 0  # not into the values
    assert all(parameter.grad is None for parameter in model.backbone.layers[2].parameters())


def test_one_model_dense_at_three_counts_and_by_mass():
    model, x = micro().eval(), torch.randn(2, 3, 64, 64)
    x[1] = 0.0  # nothing but positions
    with torch.no_grad():
        model.layers[1].attn.qkv.weight[:96] *= 3  # attention that differs from picture to picture
    stock = VisionTransformer(**MICRO)
    stock.eval()  # returns nothing
    stock.load_state_dict(model.state_dict(), strict=False)
    set_keep_ratio(model, 1.0)
    torch.testing.assert_close(model(x), stock(x), rtol=0, atol=1e-5)
    for keep_ratio, count in ((0.75, 12), (0.5, 8), (0.25, 4)):
        set_keep_ratio(model, keep_ratio)
        with record_selections(model) as taken:
            model(x)
        assert taken[0][1].num_keep == [count, count]
    find_deciders(model)[0].selector.mass = 0.5
    with record_selections(model) as taken:
        together = model(x)[0]
    assert len(set(taken[0][1].num_keep)) == 2  # as many as each picture needs
    for i in range(2):
        torch.testing.assert_close(model(x[i : i + 1])[0][0], together[i], rtol=0, atol=1e-5)


@pytest.mark.parametrize("mass", [0.0, 1.5])
def test_mass_is_a_share(mass):
    with pytest.raises(ValueError, match=rf"`mass` to be None or in \(0, 1\], but got {mass}"):
        ImportanceSelector(mass)


def test_hooks_that_do_not_fit_say_so():
    with pytest.raises(ValueError, match="`blocks` to be a positive whole number, but got 0"):
        TokenDistillHook(blocks=0)
    model = Toy(DynamicViT(**MICRO, sparsity=dict(places=[1], keep_ratio=[0.5])))
    with pytest.raises(ValueError, match="a student with a TokenImportanceScorer .* but got 0 such scorers"):
        TokenDistillHook().attach(model)
    with pytest.raises(ValueError, match=r"at least 9 plain transformer blocks \(argument `blocks`\)"):
        TokenDistillHook(blocks=9).attach(Toy(copy.deepcopy(micro())))


def test_trains_and_evaluates_adaptively(tmp_path):
    data = make(tmp_path / "data")
    args = ["--work-dir", str(tmp_path), *options(data, iters=2), "load_from=None"]
    tool("train", CONFIG, *args)
    for more in ([], ["model.backbone.sparsity.selector.mass=0.9"]):
        text = tool("test", CONFIG, str(tmp_path / "iter_2.pth"), "--macs-pictures", "2", *args, *more)
        dense, executed = map(float, re.search(r"backbone +([\d.]+) +([\d.]+)", text).groups())
        assert executed < dense and "mIoU" in text
