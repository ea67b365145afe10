"""AdaViT: blocks beside plain loops, training beside evaluation, arithmetic that falls, the usage loss, the laws."""

import re

import pytest
import torch
from commands import tool
from mmengine.model import BaseModel
from mmpretrain.models import VisionTransformer
from scenes import make, options

from mmsparse import pop_aux, set_keep_ratio
from mmsparse.analysis import count_macs
from mmsparse.apis import dense_twin, find_deciders, get_keep_ratio, record_selections
from mmsparse.deploy.check import check_exportable
from mmsparse.engine import SparsityHook
from projects.adavit import AdaViT, LinearScorer, UsageHook
from projects.adavit.choices import Choice

CONFIG = "projects/adavit/configs/adavit-vit-nano_fcn_scenes.py"
MICRO = dict(
    arch=dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96), img_size=64, out_type="featmap",
    out_indices=[0, 1, 2, 3],
)  # fmt: skip
SPARSITY = dict(
    places=[1, 2, 3], keep_ratio=[0.7, 0.6, 0.5], scorer=dict(type="LinearScorer"),
    selector=dict(type="ThresholdSelector"),
)  # fmt: skip
POLICY = dict(heads=0.6, layers=0.7)
WAYS = pytest.mark.parametrize("sparsity", [None, SPARSITY, {**SPARSITY, "fast_path": dict(type="LinearFastPath")}])


def micro(sparsity=SPARSITY, policy=POLICY, **more):
    """Weights and biases that are lively, so that pictures differ in all that they use."""
    torch.manual_seed(0)
    model = AdaViT(**MICRO, sparsity=sparsity, policy=policy, **more)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, parameter[0].numel() ** -0.5)
        else:
            torch.nn.init.normal_(parameter, 0.5 if name.endswith("weight") else 0.0, 0.2)
    return model.double()


def pictures(count=3):
    torch.manual_seed(1)
    return torch.randn(count, 3, 64, 64).double() * torch.tensor([0.2, 1.0, 5.0, 2.0])[:count].view(-1, 1, 1, 1)


@pytest.fixture
def chosen(monkeypatch):
    """What each choice gave, by its name; a first call fills it, later ones are given the same."""
    gates, forward = {}, Choice.forward

    def once(choice, feature):
        mine = forward(choice, feature)
        if choice.name not in gates:
            gates[choice.name] = mine.detach()
        return gates[choice.name].to(mine) + (mine - mine.detach())

    monkeypatch.setattr(Choice, "forward", once)
    return gates


def replay(monkeypatch, model, selections):
    """The tokens that were selected before."""
    for decider, selection in zip(find_deciders(model), selections, strict=True):
        monkeypatch.setattr(decider, "forward", lambda *_, given=selection, **__: given)


def plain_block(layer, x, heads, layers, kept):
    """Of one picture's tokens (n, C), the class token first: which heads and layers are used, which tokens are kept."""
    rows = x[kept]
    if layers[0]:
        query, key, value = layer.attn.qkv(layer.ln1(rows)).view(len(rows), 3, 3, 16).permute(1, 2, 0, 3)
        mixed = (query @ key.transpose(1, 2) / 4.0).softmax(dim=-1) @ value  # (heads, n, d)
        mixed = mixed * heads.view(3, 1, 1)
        rows = rows + layer.attn.proj(mixed.transpose(0, 1).flatten(1))
    if layers[1]:
        rows = rows + layer.ffn.layers(layer.ln2(rows))
    out = x.clone()
    out[kept] = rows
    return out


@torch.no_grad()
def test_each_picture_is_that_of_plain_loops(chosen):
    model, x = micro().eval(), pictures()
    with record_selections(model) as decided:
        maps = model(x)
    masks = [torch.ones(3, 16, dtype=torch.bool), *(selection.keep_mask for _, selection in decided)]
    assert len(set(map(str, chosen["heads/b2"].tolist() + chosen["heads/b3"].tolist()))) > 2  # pictures differ
    assert any(len(set(selection.num_keep)) > 1 for _, selection in decided)
    for picture in range(3):
        tokens = model._embed(x[picture : picture + 1])[0][0]
        for i, layer in enumerate(model.layers):
            heads = chosen[f"heads/b{i}"][picture] if i else torch.ones(3)
            layers = chosen[f"layers/b{i}"][picture] if i else torch.ones(2)
            kept = torch.cat([torch.tensor([True]), masks[i][picture]])
            tokens = plain_block(layer, tokens, heads, layers, kept)
            if i == 3:
                tokens = model.ln1(tokens)
            torch.testing.assert_close(maps[i][picture].flatten(1).t(), tokens[1:], rtol=0, atol=1e-10)


@torch.no_grad()
def test_choices_are_of_the_class_token_alone():
    """By hand: the sign of a linear layer of the class token that enters the block."""
    model, x, found = micro(sparsity=None).eval(), pictures(), []
    choice = model.policy.heads["1"]
    choice.register_forward_hook(lambda module, args, output: found.append(output))
    tokens = model._embed(x)[0]
    feature = model.layers[0](tokens)[:, 0]
    model(x)
    expected = (feature @ choice.linear.weight.t() + choice.linear.bias) > 0
    assert torch.equal(found[0].bool(), expected) and expected.any() and not expected.all()


@WAYS
def test_training_with_the_same_choices_is_evaluation(sparsity, chosen, monkeypatch):
    model, x = micro(sparsity).eval(), pictures()
    with torch.no_grad(), record_selections(model) as decided:
        wanted = model(x)
    replay(monkeypatch, model, [selection for _, selection in decided])
    assert not all(gates.all() for gates in chosen.values())
    with torch.no_grad():
        torch.testing.assert_close(model.train()(x), wanted, rtol=0, atol=1e-10)


@WAYS
def test_everything_kept_is_the_dense_network_with_all_gradients(sparsity):
    model, x = micro(sparsity), pictures()
    stock = VisionTransformer(**MICRO).double()
    result = model.load_state_dict(stock.state_dict(), strict=False)
    assert result.unexpected_keys == []
    assert all(key.startswith(("router.", "policy.")) for key in result.missing_keys)
    set_keep_ratio(model, 1.0)
    outputs = [parts(x) for parts in (model.train(), stock)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-10)
    for maps in outputs:
        sum((m * m.detach().roll(1)).mean() for m in maps).backward()
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, parameter.grad, rtol=0, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), outputs[1], rtol=0, atol=1e-10)


@torch.no_grad()
def test_all_gates_open_is_the_dense_network():
    """Computed head by head, nonetheless."""
    model, x = micro(sparsity=None).eval(), pictures()
    for choice in model.policy.dials:
        torch.nn.init.constant_(choice.linear.bias, 1e3)
    skipping = model(x)
    with dense_twin(model):
        torch.testing.assert_close(skipping, model(x), rtol=0, atol=1e-10)


@torch.no_grad()
def test_neither_chance_nor_other_pictures_change_a_result():
    model, x = micro().eval(), pictures()
    state = torch.random.get_rng_state()
    together = model(x)
    assert all(torch.equal(a, b) for a, b in zip(model(x), together, strict=True))
    assert torch.equal(state, torch.random.get_rng_state())
    for i in range(3):
        torch.testing.assert_close([m[0] for m in model(x[i : i + 1])], [m[i] for m in together], rtol=0, atol=1e-10)


@torch.no_grad()
def test_arithmetic_is_that_of_what_is_used(chosen):
    """Head by head and layer by layer, by hand; 17 tokens of 48 channels, heads of 16."""
    model, x = micro(sparsity=None).eval(), pictures()
    counted = count_macs(model, lambda: model(x)).total
    block = 17 * (4 * 48**2 + 2 * 48 * 96) + 2 * 17 * 17 * 48
    expected = 3 * (16 * 3 * 16 * 16 * 48 + block)  # patches, and the block that skips nothing
    for i in (1, 2, 3):
        heads, layers = chosen[f"heads/b{i}"], chosen[f"layers/b{i}"]
        used = (heads.sum(dim=1) * layers[:, 0]).sum().item()
        expected += used * (17 * 48 * 16 * 4 + 2 * 17 * 17 * 16) + layers[:, 1].sum().item() * 17 * 2 * 48 * 96
        expected += 3 * 48 * (3 + 2)  # the choices
    assert counted == expected
    with dense_twin(model):
        assert counted < count_macs(model, lambda: model(x)).total


def test_a_gate_gets_what_its_part_is_worth():
    """The gradient of the loss by a head's contribution, by finite differences of the gate."""
    model, x = micro(sparsity=None).train(), pictures(2)
    gates = {}
    for choice in model.policy.dials:
        choice.forward = lambda feature, choice=choice: gates.setdefault(
            choice.name, torch.ones(2, choice.linear.out_features, dtype=torch.float64, requires_grad=True)
        )
    loss = model(x)[-1].sin().sum()
    loss.backward()
    for name, at in (("heads/b3", (1, 2)), ("layers/b2", (0, 1)), ("layers/b3", (1, 0))):
        grad = gates[name].grad[at].item()
        with torch.no_grad():
            gates[name][at] -= 1e-6
            assert grad == pytest.approx((loss - model(x)[-1].sin().sum()).item() / 1e-6, rel=1e-4)
            gates[name][at] += 1e-6


def test_draws_and_their_gradient():
    torch.manual_seed(0)
    choice = Choice("heads/b0", 4, 2, tau=5.0).train()
    torch.nn.init.zeros_(choice.linear.weight)
    with torch.no_grad():
        choice.linear.bias.copy_(torch.tensor([1.0, -2.0]))
    gates = choice(torch.zeros(20000, 4))
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(gates.mean(dim=0), torch.tensor([1.0, -2.0]).sigmoid(), rtol=0, atol=0.015)
    gates.mean(dim=0).sum().backward()
    drawn = torch.logit(torch.rand(200000)) + torch.tensor([[1.0], [-2.0]])
    soft = (drawn / 5.0).sigmoid()
    torch.testing.assert_close(choice.linear.bias.grad, (soft * (1 - soft)).mean(dim=1) / 5.0, rtol=0, atol=1e-3)
    assert choice.eval()(torch.zeros(3, 4)).tolist() == [[1.0, 0.0]] * 3


def test_it_begins_with_nearly_all_of_a_trained_network():
    model = AdaViT(**MICRO, policy={})
    model.init_weights()
    assert all(torch.equal(c.linear.bias, torch.full_like(c.linear.bias, 3.0)) for c in model.policy.dials)
    assert get_keep_ratio(model) == {f"{kind}/b{i}": 0.5 for kind in ("heads", "layers") for i in (1, 2, 3)}


class Toy(BaseModel):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs, data_samples=None, mode="tensor"):
        maps = self.backbone(inputs)
        return dict(loss_toy=0.0 * maps[-1].mean()) if mode == "loss" else maps


def test_the_usage_loss_by_hand(chosen):
    model = Toy(micro()).train()
    SparsityHook(loss_weight=2.0, per_image=False, anneal=None).attach(model)
    UsageHook(weight=3.0).attach(model)
    losses = model(pictures(), mode="loss")
    heads, layers = (
        torch.stack([gates for name, gates in chosen.items() if name.startswith(kind)]).mean()
        for kind in ("heads", "layers")
    )
    torch.testing.assert_close(losses["loss_usage"], 3.0 * ((heads - 0.6) ** 2 + (layers - 0.7) ** 2))
    torch.testing.assert_close([losses["usage/heads"], losses["usage/layers"]], [heads, layers])
    assert not losses["usage/heads"].requires_grad
    shares = [losses[f"keep_ratio/b{i}"] for i in (1, 2, 3)]
    of_tokens = sum((share - target) ** 2 for share, target in zip(shares, (0.7, 0.6, 0.5), strict=True)) / 3
    torch.testing.assert_close(losses["loss_sparsity"], 2.0 * of_tokens)
    with torch.no_grad():
        assert "loss_usage" not in model(pictures(), mode="loss")


def test_the_usage_loss_alone_reaches_its_targets():
    torch.manual_seed(0)
    model = Toy(micro(sparsity=None, policy=dict(heads=0.4, layers=0.8))).train()
    UsageHook().attach(model)
    optimizer = torch.optim.Adam(model.backbone.policy.parameters(), lr=3e-2)
    x = pictures(4).repeat(4, 1, 1, 1)
    shares = []
    for _ in range(150):
        losses = model(x, mode="loss")
        optimizer.zero_grad()
        losses["loss_usage"].backward()
        optimizer.step()
        shares.append([losses["usage/heads"].item(), losses["usage/layers"].item()])
    heads, layers = torch.tensor(shares[-50:]).mean(dim=0).tolist()
    assert heads == pytest.approx(0.4, abs=0.05) and layers == pytest.approx(0.8, abs=0.05)


def test_every_parameter_learns():
    """One picture's skipped parts are another's: of these, every part is used by one."""
    torch.manual_seed(0)
    model, x = micro().train(), pictures(4).repeat(4, 1, 1, 1)
    sum((m * torch.randn_like(m)).mean() for m in model(x)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    pop_aux(model)


def test_checkpointing_changes_nothing():
    plain, saving = (micro(with_cp=with_cp).train() for with_cp in (False, True))
    grads = []
    for model in (plain, saving):
        torch.manual_seed(3)
        sum(m.square().mean() for m in model(pictures())).backward()
        grads.append([p.grad for p in model.parameters()])
        pop_aux(model)
    torch.testing.assert_close(*grads, rtol=0, atol=1e-10)


def test_autocast_runs():
    model, x = micro().float(), pictures().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sum(m.float().mean() for m in model.train()(x)).backward()
        pop_aux(model)
        with torch.no_grad():
            half = model.eval()(x)[-1].float()
    assert half.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_linear_scores_by_hand():
    scorer = LinearScorer(6)
    tokens = torch.randn(2, 5, 6)
    normed = (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(scorer(tokens), (normed * scorer.linear.weight).sum(dim=-1) + scorer.linear.bias)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(policy=0.5), "Expected argument `policy` to be a dict or None, but got 0.5"),
        (dict(policy=dict(head=0.5)), "unknown key 'head'; it knows"),
        (dict(policy=dict(heads=0.0)), r"Argument `policy`: .*in \(0, 1\], but got 0.0"),
        (dict(policy=dict(first=4)), r"`first` to be a block in \[0, 4\), but got 4"),
        (dict(policy=dict(tau=0)), "`tau` to be positive, but got 0"),
        (
            dict(policy={}, with_cls_token=False),
            "for a network with a class token, which it reads, and without windows",
        ),
        (dict(policy={}, sparsity=dict(cumulative=True, keys="entering")), "keys='entering' is not"),
    ],
    ids=str,
)
def test_mistakes(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        AdaViT(**MICRO, **arguments)


def test_what_does_not_fit_says_so():
    with pytest.raises(ValueError, match="UsageHook: Toy has no policy. Give its backbone type='mmsparse.AdaViT'"):
        UsageHook().attach(Toy(AdaViT(**MICRO)))
    with pytest.raises(ValueError, match="with `policy` each picture skips other heads and layers"):
        check_exportable(AdaViT(**MICRO, policy={}), padded=False)
    with pytest.raises(ValueError, match=r"one for each of the 6 choices \(of heads, then of layers\), but got 2"):
        set_keep_ratio(AdaViT(**MICRO, policy={}), [0.5, 0.5])


def test_trains_and_evaluates(tmp_path):
    data = make(tmp_path / "data")
    args = ["--work-dir", str(tmp_path), *options(data, iters=2), "load_from=None"]
    text = tool("train", CONFIG, *args)
    assert "loss_usage" in text and "usage/heads" in text
    text = tool("test", CONFIG, str(tmp_path / "iter_2.pth"), "--macs-pictures", "2", *args)
    dense, executed = map(float, re.search(r"backbone +([\d.]+) +([\d.]+)", text).groups())
    assert executed < dense and "mIoU" in text
