"""TPC: what the scores mean, that a paused token keeps its value, the losses by hand, and returns."""

import re

import pytest
import torch
from commands import tool
from counting import macs_of
from mmengine.model import BaseModel
from mmpretrain.models import VisionTransformer
from scenes import make, options

from mmsparse.apis import find_deciders, record_selections
from mmsparse.engine import SparsityHook
from mmsparse.models import DynamicConvNeXt, DynamicSwin, DynamicViT
from mmsparse.sparsity import Context
from projects.tpc import PropagationScorer, SmoothDecisionsHook, TokenCutHook, TPCViT
from projects.tpc.losses import roughness, token_cut
from projects.tpc.returns import returning, roughness_of

CONFIG = "projects/tpc/configs/tpc-vit-nano_fcn_scenes.py"
MICRO = dict(
    arch=dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96), img_size=64, out_type="featmap",
    out_indices=[0, 1, 2, 3],
)  # fmt: skip
SPARSITY = dict(places=[1, 2, 3], keep_ratio=[0.5, 0.5, 0.5], scorer=dict(type="PropagationScorer"), share_scorer=True)


def lively(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, parameter[0].numel() ** -0.5)
    return model


def micro(kind=TPCViT, **more):
    return lively(kind(**MICRO, sparsity={**SPARSITY, **more}))


@pytest.mark.parametrize("restart", [True, False])
def test_the_score_is_the_log_odds_of_not_breaking(restart):
    torch.manual_seed(0)
    scorer = PropagationScorer(8, hidden=4, restart=restart)
    torch.nn.init.normal_(scorer.pause.weight)
    tokens = torch.randn(2, 5, 8)
    normed = torch.nn.functional.layer_norm(tokens, (8,), eps=1e-6)
    hidden = torch.nn.functional.gelu(scorer.local(normed) + scorer.context(normed.mean(dim=1, keepdim=True)))
    broken = scorer.pause(hidden).sigmoid().squeeze(-1)
    if restart:
        torch.nn.init.normal_(scorer.again.weight)
        broken = broken * (1 - scorer.again(hidden).sigmoid().squeeze(-1))
    torch.testing.assert_close(scorer(tokens, Context()).sigmoid(), 1 - broken)


def test_scores_stay_finite():
    scorer = PropagationScorer(8, hidden=4)
    for bias in (-200.0, 200.0):
        torch.nn.init.constant_(scorer.pause.bias, bias)
        torch.nn.init.constant_(scorer.again.bias, -bias)
        assert scorer(torch.randn(1, 3, 8), Context()).isfinite().all()


@pytest.mark.parametrize("training", [False, True])
def test_a_paused_token_keeps_its_value_to_the_bit(training):
    model, x = micro().train(training), torch.randn(2, 3, 64, 64)
    model.ln1 = torch.nn.Identity()  # it is behind the last block
    with torch.no_grad(), record_selections(model) as taken:
        maps = [out.flatten(2).transpose(1, 2) for out in model(x)]
    for (_, selection), before, after in zip(taken, maps[:-1], maps[1:], strict=True):
        assert torch.equal(after[~selection.keep_mask], before[~selection.keep_mask])
        assert not torch.isclose(after[selection.keep_mask], before[selection.keep_mask]).all(dim=-1).any()


def test_without_restart_nothing_returns():
    x = torch.randn(2, 3, 64, 64)
    for more, monotone in (({}, False), (dict(cumulative=True), True)):
        model = micro(keep_ratio=[0.7, 0.5, 0.3], share_scorer=False, **more).eval()
        with torch.no_grad(), record_selections(model) as taken:
            model(x)
        steps, ever = returning([selection.keep_mask for _, selection in taken])
        assert (steps == [0.0, 0.0] and ever == 0.0) == monotone


def test_returns_by_hand():
    masks = [torch.tensor([row], dtype=torch.bool) for row in ([1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 0])]
    assert returning(masks) == ([0.5, 0.5], pytest.approx(2 / 3))  # the third and the second of the last three
    assert roughness_of(torch.tensor([[True, False, True, True]]), (2, 2)) == 0.5


def test_the_stabiliser_begins_at_nothing_and_is_counted():
    model, x = TPCViT(**MICRO, sparsity=SPARSITY).eval(), torch.randn(1, 3, 64, 64)
    plain = DynamicViT(**MICRO, sparsity=SPARSITY).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model(x), plain(x), rtol=0, atol=0)
    stock = VisionTransformer(**MICRO)
    assert stock.state_dict().keys() <= model.state_dict().keys()
    assert macs_of(model, 64, 64) == macs_of(plain, 64, 64) + 16 * 48 * 9


def test_roughness_and_cut_by_hand():
    values = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])  # every 3x3 mean of a 2x2 map is 1/4
    assert roughness(values).item() == pytest.approx((0.75**2 + 3 * 0.25**2) / 4)
    weight = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6]]])  # a class token and two
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    across = (0.2**2 + 0.3**2 + 0.2**2) / 3  # the columns of tokens on the other side
    within = ((0.8 - 1) ** 2 + (0.7 - 1) ** 2) / 3
    assert token_cut(weight, mask, 1).item() == pytest.approx(across + within)


def test_idle_scores_are_the_class_tokens_logits():
    model = micro(DynamicViT, scorer=dict(type="IdleScorer"), share_scorer=False)
    x, scores, inputs = torch.randn(2, 3, 64, 64), [], []
    find_deciders(model)[0].scorer.register_forward_hook(lambda m, a, out: scores.append(out))
    model.layers[0].register_forward_hook(lambda m, a, out: inputs.append(out))
    model.eval()(x)
    layer = model.layers[1]
    query, key, _ = layer.attn.qkv(layer.ln1(inputs[0])).unflatten(-1, (3, 3, 16)).permute(2, 0, 3, 1, 4)
    expected = (query[:, :, :1] @ key[:, :, 1:].transpose(-1, -2) / 4).mean(dim=(1, 2))
    torch.testing.assert_close(scores[0], expected, rtol=0, atol=1e-5)
    sparsity = dict(places=[1], keep_ratio=0.5, scorer=dict(type="IdleScorer"))
    model = DynamicViT(**MICRO, with_cls_token=False, sparsity=sparsity)
    model.eval()
    with pytest.raises(ValueError, match="no class token. Use AttentionScorer"):
        model(x)


class Toy(BaseModel):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs, data_samples=None, mode="tensor"):
        maps = self.backbone(inputs)
        return dict(loss_toy=maps[-1].square().mean()) if mode == "loss" else maps


def test_smoothing_makes_neighbours_agree():
    """The same steps with and without it, on the same pictures: fewer neighbours are decided differently."""
    found = {}
    for weight in (0.0, 300.0):
        model = Toy(micro(selector=dict(type="TopKSelector"))).train()
        SparsityHook(anneal=None).attach(model)
        SmoothDecisionsHook(weight).attach(model)
        optimizer = torch.optim.Adam(model.backbone.router.parameters(), lr=1e-2)
        pictures = torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(1))
        for _ in range(30):
            losses = model(pictures, mode="loss")
            assert {"loss_smooth", "loss_sparsity", "loss_toy"} <= losses.keys()
            optimizer.zero_grad()
            sum(value for name, value in losses.items() if "loss" in name).backward()
            optimizer.step()
        with torch.no_grad():
            model(pictures, mode="loss")
            scores = []
            for decision in find_deciders(model):
                decision.scorer.register_forward_hook(
                    lambda m, a, out: scores.append(out.sigmoid().unflatten(1, (8, 8)))
                )
            model.eval()(pictures)
        found[weight] = torch.stack([roughness(score) for score in scores]).mean().item()
    assert found[300.0] < 0.5 * found[0.0]


def test_the_cut_teaches_the_attention():
    model = Toy(micro(DynamicViT, scorer=dict(type="IdleScorer"), share_scorer=False)).train()
    SparsityHook(anneal=None).attach(model)
    TokenCutHook().attach(model)
    model(torch.randn(1, 3, 64, 64), mode="loss")["loss_cut"].backward()
    grad = model.backbone.layers[3].attn.qkv.weight.grad
    assert grad[:96].abs().sum() > 0 and grad[96:].abs().sum() == 0


CONVNEXT = dict(arch=dict(depths=[1, 1, 4, 1], channels=[8, 16, 32, 64]), sparsity={})


def test_decisions_without_attention_can_be_smooth():
    model = Toy(lively(DynamicConvNeXt(**CONVNEXT))).train()
    SparsityHook(anneal=None).attach(model)
    SmoothDecisionsHook(weight=2.0).attach(model)
    scores = []
    for decision in find_deciders(model):
        decision.scorer.register_forward_hook(lambda m, a, out: scores.append(out.sigmoid().unflatten(1, (4, 4))))
    loss = model(torch.randn(2, 3, 64, 64), mode="loss")["loss_smooth"]
    torch.testing.assert_close(loss, 2.0 * torch.stack([roughness(score) for score in scores]).mean())


@pytest.mark.parametrize(
    "backbone",
    [
        lambda: DynamicConvNeXt(**CONVNEXT),
        lambda: DynamicSwin(embed_dims=16, depths=(1, 1, 4, 1), num_heads=(1, 1, 2, 2), window_size=4, sparsity={}),
    ],
    ids=["convnext", "swin"],
)
def test_the_cut_is_for_plain_transformers(backbone):
    model = Toy(backbone()).train()
    TokenCutHook().attach(model)
    with pytest.raises(ValueError, match="^TokenCutHook: a block that decides does not attend .*DynamicViT"):
        model(torch.randn(2, 3, 64, 64), mode="loss")


def test_a_hook_on_a_dense_model_says_so():
    with pytest.raises(ValueError, match="SmoothDecisionsHook: DynamicViT decides nothing. Give it `sparsity`"):
        SmoothDecisionsHook().attach(Toy(DynamicViT(**MICRO)))


def test_trains_evaluates_and_counts_returns(tmp_path):
    data = make(tmp_path / "data")
    args = ["--work-dir", str(tmp_path), *options(data, iters=2), "load_from=None"]
    tool("train", CONFIG, *args)
    text = tool("test", CONFIG, str(tmp_path / "iter_2.pth"), "--macs-pictures", "2", *args)
    dense, executed = map(float, re.search(r"backbone +([\d.]+) +([\d.]+)", text).groups())
    assert executed < dense and "mIoU" in text
