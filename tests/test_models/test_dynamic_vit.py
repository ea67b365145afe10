"""What is DynamicViT's own: keys that may be seen, dropped tokens, layouts, windows, arguments."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from mmpretrain.models import VisionTransformer
from mmseg.models.backbones import VisionTransformer as SegViT

from mmsparse import pop_aux, set_keep_ratio
from mmsparse.apis import find_deciders, record_selections
from mmsparse.models import DynamicViT
from mmsparse.models.backbones.routed_attention import (
    Groups,
    Keys,
    Tokens,
    Windows,
    masked_attention,
    packed_attention,
)
from mmsparse.sparsity import Context, Geometry, Selection, TopKSelector
from mmsparse.sparsity.scorers import standardised

MICRO = dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96)


def build(**more):
    return DynamicViT(**{**dict(arch=MICRO, img_size=96, out_type="featmap"), **more})


@pytest.fixture
def attn():
    return VisionTransformer(arch=MICRO).layers[0].attn


def by_the_formula(attn, tokens, gate):
    """A_ij = e_ij G_ij / sum_k e_ik G_ik with G_ii = 1 and else G_ij = gate_j."""
    query, key, value = attn.qkv(tokens).unflatten(-1, (3, 3, 16)).permute(2, 0, 3, 1, 4)
    e = (query @ key.transpose(-1, -2) / 4).exp()
    itself = torch.eye(tokens.shape[1])
    columns = (gate[:, None] * (1 - itself) + itself).unsqueeze(1)
    weights = e * columns
    mixed = (weights / weights.sum(-1, keepdim=True)) @ value
    return attn.proj(mixed.transpose(1, 2).flatten(2))


def test_masked_attention_is_the_papers_with_its_gradients(attn):
    tokens, gate = torch.randn(2, 10, 48), (torch.rand(2, 10) < 0.5).float()
    weight = torch.randn(2, 10, 48)
    grads = []
    for attend in (masked_attention, None):
        x, g = tokens.clone().requires_grad_(), gate.clone().requires_grad_()
        y = by_the_formula(attn, x, g) if attend is None else attend(attn, x, Keys(gate > 0.5, g))
        (y * weight).sum().backward()
        grads.append((y, x.grad, g.grad))
    for actual, expected in zip(*grads, strict=True):
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_hidden_key_of_a_huge_product_leaves_the_gates_gradient_finite(attn):
    """What it would weigh beside those that are seen is exp of hundreds; it counts as ``MAX_LOGIT`` at most."""
    torch.nn.init.eye_(attn.qkv.weight[:48].data), torch.nn.init.eye_(attn.qkv.weight[48:96].data)
    tokens, keep = torch.randn(1, 10, 48), torch.arange(10)[None] < 5
    tokens[:, 5:] = 30 * tokens[:, :5]  # each hidden token is the key that a seen one looks for
    gate = keep.float().requires_grad_()
    masked_attention(attn, tokens, Keys(keep, gate)).square().sum().backward()
    query, key, _ = attn.qkv(tokens).unflatten(-1, (3, 3, 16)).permute(2, 0, 3, 1, 4)
    assert (query @ key.transpose(-1, -2) / 4).max() > 500
    assert gate.grad.isfinite().all() and gate.grad.any()


class Diagonals:
    """A pattern: keys that are so many tokens away."""

    def mask(self, numbers):
        return (numbers[..., :, None] - numbers[..., None, :]) % 3 != 1

    def attend(self, query, key, value, tokens, dropout):
        numbers = torch.arange(key.shape[2])[None] if tokens.numbers is None else tokens.numbers
        seen = self.mask(numbers)
        if tokens.there is not None:
            seen = seen & tokens.there[:, None, :]
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen[:, None])

    def seen(self, query, key, tokens, allowed):
        assert tokens.there is not None and tokens.numbers is None
        reach = self.mask(torch.arange(key.shape[2])).expand(*query.shape[:3], -1)
        return reach & allowed, reach


class ByHead(Diagonals):
    """Another diagonal hidden for each head."""

    def mask(self, numbers):
        away = numbers[..., :, None] - numbers[..., None, :]
        return torch.stack([away % 3 != 1, away % 3 != 2, away % 4 != 1])


@pytest.mark.parametrize("pattern", [Diagonals(), ByHead()], ids=lambda pattern: type(pattern).__name__)
def test_keys_that_a_pattern_hides_give_gates_no_gradient(attn, pattern):
    """As the formula has it for its gates times the pattern's."""
    tokens, keep, weight = torch.randn(2, 10, 48), torch.rand(2, 10) < 0.5, torch.randn(2, 10, 48)
    shown = pattern.mask(torch.arange(10))
    gate = keep.float().requires_grad_()
    of = Tokens((2, 5), 0, there=keep)
    (masked_attention(attn, tokens, Keys(keep, gate), pattern, of) * weight).sum().backward()
    each = keep.float().requires_grad_()
    query, key, value = attn.qkv(tokens).unflatten(-1, (3, 3, 16)).permute(2, 0, 3, 1, 4)
    itself = torch.eye(10)
    columns = (each[:, None] * (1 - itself) + itself).unsqueeze(1) * shown
    weights = (query @ key.transpose(-1, -2) / 4).exp() * columns
    mixed = (weights / weights.sum(-1, keepdim=True)) @ value
    (attn.proj(mixed.transpose(1, 2).flatten(2)) * weight).sum().backward()
    assert each.grad.abs().max() > 1e-3
    torch.testing.assert_close(gate.grad, each.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("selector", ["TopKSelector", "ThresholdSelector"])
def test_packed_tokens_see_a_pattern_by_their_own_numbers(selector, monkeypatch):
    model = build(sparsity=dict(places=[1, 2], keep_ratio=[0.6, 0.4], selector=dict(type=selector)))
    monkeypatch.setattr(model, "_pattern", lambda i: Diagonals() if i else None)
    x = torch.randn(3, 3, 80, 96) * torch.tensor([0.3, 1.0, 3.0]).view(3, 1, 1, 1)
    model.train()
    model(torch.randn(2, 3, 80, 96))
    pop_aux(model)
    trained = model(x)
    chosen = iter([decided.selection for decided in pop_aux(model)])
    model.eval()
    for decision in find_deciders(model):
        selection = next(chosen)
        frozen = Selection(selection.geometry, selection.keep_mask, count=selection.count)
        monkeypatch.setattr(decision, "forward", lambda *_, frozen=frozen, **__: frozen)
    with torch.no_grad():
        (evaluated,) = model(x)
    torch.testing.assert_close(evaluated, trained[0], rtol=0, atol=1e-5)
    monkeypatch.setattr(model, "_pattern", lambda i: None)
    with torch.no_grad():
        assert (model(x)[0] - evaluated).abs().max() > 1e-3


def test_packed_attention_sees_its_group_only(attn):
    number = torch.tensor([2, 0, 2, 2, 5, 0, 2])
    rows = torch.randn(7, 48)
    actual = packed_attention(attn, rows, Groups.of(number))
    for group in (0, 2, 5):
        alone = attn(rows[number == group].unsqueeze(0)).squeeze(0)
        torch.testing.assert_close(actual[number == group], alone, rtol=0, atol=1e-5)
    equal = packed_attention(attn, rows[:6], 3)
    torch.testing.assert_close(equal[3:], attn(rows[3:6].unsqueeze(0)).squeeze(0), rtol=0, atol=1e-5)
    assert packed_attention(attn, rows[:0], Groups.of(number[:0])).shape == (0, 48)


def test_padding_of_a_window_is_a_key(attn):
    """As if the window's missing cells were tokens of zeros."""
    rows = torch.randn(5, 48)
    groups = Groups.of(torch.tensor([0, 0, 1, 1, 1]), padding=torch.tensor([4, 0]))
    actual = packed_attention(attn, rows, groups)
    torch.testing.assert_close(actual[2:], attn(rows[None, 2:])[0], rtol=0, atol=1e-5)
    padded = attn(torch.cat([rows[:2], torch.zeros(4, 48)])[None])[0, :2]
    torch.testing.assert_close(actual[:2], padded, rtol=0, atol=1e-5)


def test_windows_come_back():
    tokens = torch.randn(2, 7 * 9, 3)
    windows = Windows((7, 9), 4).split(tokens)
    assert windows.shape == (2 * 2 * 3, 16, 3)
    assert torch.equal(windows[1, 5], tokens[0, 1 * 9 + 5])  # second window, its second row and column
    assert torch.equal(Windows((7, 9), 4).join(windows), tokens)


@pytest.mark.parametrize("selector", ["TopKSelector", "ThresholdSelector"])
@pytest.mark.parametrize("window", [0, 4])
def test_unselected_tokens_keep_their_value_and_come_back(selector, window):
    model = build(out_indices=[0, 1, 2, 3], final_norm=False, with_cls_token=False, window_size=window,
                  sparsity=dict(places=[0, 2], keep_ratio=[0.25, 0.75], selector=dict(type=selector)))  # fmt: skip
    x = torch.randn(2, 3, 96, 96)
    model.train()(x)  # thresholds see some scores
    model.eval()
    with torch.no_grad(), record_selections(model) as taken:
        maps = [m.flatten(2).transpose(1, 2) for m in model(x)]
        embedded, _ = model._embed(x)
    (_, first), (_, second) = taken
    assert torch.equal(maps[1][~first.keep_mask], embedded[~first.keep_mask])
    assert (second.keep_mask & ~first.keep_mask).any()
    moved = (maps[2] != maps[1]).any(-1)
    assert torch.equal(moved, second.keep_mask)


def test_cumulative_never_returns():
    model = build(
        sparsity=dict(cumulative=True, places=[0, 1, 3], keep_ratio=0.7, selector=dict(type="GumbelSelector"))
    )
    x = torch.randn(2, 3, 96, 96)
    for mode in (True, False):
        model.train(mode)
        with record_selections(model) as taken:
            model(x)
        masks = [selection.keep_mask for _, selection in taken]
        assert len(masks) == 3
        for before, after in pairwise(masks):
            assert not (after & ~before).any()
        pop_aux(model)
    assert [selection.num_keep for _, selection in taken] == [[25, 25], [18, 18], [12, 12]]  # of 36: r, r^2, r^3


@pytest.mark.parametrize("selector", ["TopKSelector", "ThresholdSelector"])
def test_entering_tokens_are_keys_once_more(selector):
    """Rows of the stock layer, given the tokens that the layer before it computed and no others."""
    sparsity = dict(cumulative=True, keys="entering", places=[1, 2], keep_ratio=[0.6, 0.3])
    model = build(final_norm=False, sparsity=dict(**sparsity, selector=dict(type=selector)))
    x = torch.randn(2, 3, 96, 96)
    model.train()(x)  # thresholds see some scores
    model.eval()
    with torch.no_grad(), record_selections(model) as taken:
        (actual,) = model(x)
        tokens = model.layers[0](model._embed(x)[0])
        first, second = (selection.with_extra(1).keep_mask for _, selection in taken)
        assert 1 < second[0].sum() < first[0].sum() < 37
        for image, one, two in zip(tokens, first, second, strict=True):
            for layer, entering, kept in zip(model.layers[1:], (one | True, one, two), (one, two, two), strict=True):
                image[kept] = layer(image[None, entering])[0, kept[entering]]
    torch.testing.assert_close(actual.flatten(2).transpose(1, 2), tokens[:, 1:], rtol=0, atol=1e-5)


def test_survivors_are_scored_as_if_alone():
    """Evaluation scores only what is left; the whole map with the dropped tokens masked gives the same scores."""
    model = build(sparsity=dict(cumulative=True)).eval()
    decision, given = find_deciders(model)[1], []
    for parameter in decision.scorer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    decision.selector.register_forward_pre_hook(lambda selector, args: given.append(args[0]))
    tokens = torch.randn(2, 36, 48) + 2 * torch.randn(2, 1, 48)
    before = find_deciders(model)[0](tokens, Geometry((6, 6)))
    decision(tokens, Geometry((6, 6)), before=before)
    here = before.keep_mask
    expected = decision.scorer(tokens, Context(alive=here))
    torch.testing.assert_close(given[0][here], expected[here])
    assert not given[0][~here].isclose(expected[~here]).any() and expected[here].std() > 0.1


def test_a_fast_path_moves_what_is_not_selected_in_training_and_evaluation():
    fast_path = dict(type="LinearFastPath")
    model = build(sparsity=dict(places=[1, 2], keep_ratio=[0.6, 0.4], fast_path=fast_path)).train()
    for parameter in model.router.fast_paths.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x = torch.randn(2, 3, 96, 96)
    (trained,) = model(x)
    pop_aux(model)
    with torch.no_grad(), record_selections(model) as taken:
        (evaluated,) = model.eval()(x)
        torch.testing.assert_close(evaluated, trained, rtol=0, atol=1e-5)
        for parameter in model.router.fast_paths.parameters():
            torch.nn.init.zeros_(parameter)
        (still,) = model(x)
    assert ((still - evaluated).abs().amax(1).flatten(1)[~taken[1][1].keep_mask] > 1e-3).all()


def test_class_and_column_attention_are_those_of_the_block():
    model = build(sparsity=dict(scorer=dict(type="AttentionScorer"), keep_ratio=0.5)).eval()
    seen = {}
    model.router.decisions["0_1"].scorer.register_forward_hook(
        lambda scorer, args, scores: seen.update(attention=args[1].attention, scores=scores)
    )
    inputs = []
    model.layers[0].register_forward_hook(lambda layer, args, output: inputs.append(output))
    with torch.no_grad():
        model(torch.randn(1, 3, 96, 96))
        layer = model.layers[1]
        query, key, _ = layer.attn.qkv(layer.ln1(inputs[0])).unflatten(-1, (3, 3, 16)).permute(2, 0, 3, 1, 4)
        logits = query @ key.transpose(-1, -2) / 4
        row = logits[:, :, :1, 1:].softmax(-1).mean(1).squeeze(1)
        column = logits[:, :, 1:, 1:].softmax(-1).mean(1).sum(1)
        torch.testing.assert_close(seen["attention"].class_row(None), row, rtol=0, atol=1e-5)
        torch.testing.assert_close(seen["attention"].column_mass(None), column, rtol=0, atol=1e-5)
    torch.testing.assert_close(seen["scores"], standardised(row.log()), rtol=0, atol=1e-3)


def test_checkpoint_of_mmseg_loads_and_gives_its_maps():
    stock = SegViT(img_size=(96, 96), embed_dims=48, num_layers=4, num_heads=3, mlp_ratio=2, out_indices=[1, 3],
                   norm_cfg=dict(type="LN", eps=1e-6), final_norm=True, patch_bias=True)  # fmt: skip
    stock.eval()
    for token in (stock.cls_token, stock.pos_embed):
        torch.nn.init.normal_(token)
    model = build(out_indices=[1, 3], sparsity={}).eval()
    result = model.load_state_dict(stock.state_dict(), strict=False)
    assert result.unexpected_keys == [] and all(key.startswith("router.") for key in result.missing_keys)
    set_keep_ratio(model, 1.0)
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        for actual, expected in zip(model(x), stock(x), strict=True):
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def test_stochastic_depth_drops_images_not_windows():
    model = build(
        with_cls_token=False, window_size=3, drop_path_rate=0.5, sparsity=dict(keep_ratio=1.0, places=[3])
    ).train()
    x = torch.randn(16, 36, 48)
    keys = model._keys(x, keep_all(16))
    for run in (lambda: model._dense(3, x, (6, 6)), lambda: model._masked(3, x, (6, 6), keys, keys)):
        with torch.no_grad():
            model.layers[3].ffn.dropout_layer.eval()
            attended = run() - model.layers[3].ffn(model.layers[3].ln2(x), identity=x)
        still = (attended.abs().amax(-1) < 1e-6).float().mean(1)
        assert set(still.tolist()) == {0.0, 1.0}


def keep_all(batch):
    return Selection(Geometry((6, 6)), torch.ones(batch, 36, dtype=torch.bool))


def test_a_norm_before_the_layers_loads_from_mmseg():
    stock = SegViT(img_size=(96, 96), embed_dims=48, num_layers=4, num_heads=3, mlp_ratio=2, pre_norm=True,
                   norm_cfg=dict(type="LN", eps=1e-6), patch_bias=False)  # fmt: skip
    result = build(pre_norm=True, final_norm=False).load_state_dict(stock.state_dict(), strict=False)
    assert result.missing_keys == [] and result.unexpected_keys == []


def test_a_shallow_network_has_the_places_that_it_can():
    assert build(arch={**MICRO, "num_layers": 2}, sparsity={}).router.places == ((0, 1),)


def test_frozen_blocks_and_cumulative_gates_train():
    model = build(frozen_stages=2, sparsity=dict(cumulative=True, places=[1, 3], keep_ratio=[0.7, 0.3])).train()
    model(torch.randn(1, 3, 96, 96))[0].sum().backward()
    (decided,) = pop_aux(model)
    assert decided.name == "b3" and decided.selection.gate.requires_grad


def test_attributes():
    model = build(out_indices=[1, -1], sparsity={})
    assert model.router.places == ((0, 1), (0, 2), (0, 3))
    assert model.get_layer_depth("backbone.layers.2.ln1.weight", "backbone.") == (3, 6)
    assert model.get_layer_depth("backbone.router.decisions.0_1.scorer.head.0.weight", "backbone.") == (5, 6)
    assert model.train() is model


def test_frozen_blocks_freeze_their_places():
    model = build(frozen_stages=2, sparsity=dict(places=[1, 3], keep_ratio=0.5)).train()
    frozen = {name for name, p in model.router.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith(("decisions.0_1.", "fast_paths.0_1.")) for name in frozen)
    assert not model.layers[1].training and model.layers[2].training


def test_a_sample_of_what_is_not_selected_informs_the_gates_without_bias():
    """The values are those of masks on all tokens, of which only the selected ones and the sample are in work."""
    arch = dict(embed_dims=24, num_layers=3, num_heads=3, feedforward_channels=48)
    sparsity = dict(places=[0, 2], keep_ratio=[0.5, 0.25], fast_path=dict(type="LinearFastPath"))
    model = DynamicViT(arch, img_size=64, patch_size=16, sparsity=sparsity, out_type="raw").double().train()
    for parameter in model.router.fast_paths.parameters():
        torch.nn.init.normal_(parameter)
    pictures, direction = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 3, 64, 64), (2, 17, 24)))
    values, gates, in_work = [], [], []
    model.layers[1].ln1.register_forward_hook(lambda _, args, out: in_work.append(out.shape[1]))
    choose = TopKSelector().eval()

    def chosen(scores, geometry, keep_ratio, **_):
        """The same ones each time, with a gate to be seen."""
        selection = choose(torch.arange(16.0).expand(len(scores), -1), geometry, keep_ratio)
        gates.append(selection.keep_mask.double().requires_grad_())
        return replace(selection, gate=gates[-1])

    for decider in find_deciders(model):
        decider.selector.forward, decider.learn, decider.collected = chosen, "gate", True

    def gradients(explore, copies):
        """Of each copy of the pictures, which has a sample of its own."""
        gates.clear()
        model.router.explore = explore
        (out,) = model(pictures.repeat(copies, 1, 1, 1))
        values.append(out.detach().unflatten(0, (copies, 2)))
        found = torch.autograd.grad((out.unflatten(0, (copies, 2)) * direction).sum(), gates)
        return torch.stack([gradient.unflatten(0, (copies, 2)) for gradient in found], dim=1)

    (full,), draws = gradients(1.0, 1), gradients(0.25, 1000)
    torch.testing.assert_close(values[1], values[0].expand_as(values[1]), rtol=1e-9, atol=1e-9)
    assert in_work == [17, 1 + 8 + 2]
    kept = torch.stack([gate[:2].detach().bool() for gate in gates])
    torch.testing.assert_close(draws.mean(0), full, rtol=0.2, atol=0.2 * full.std().item())
    assert (draws[0] != 0)[kept].all() and (draws[0][~kept] == 0).sum() == 2 * (8 - 2 + 12 - 3)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (dict(arch="deit-huge"), ValueError, r"expected argument `arch` to be one of .* but got 'deit-huge'"),
        (dict(arch=dict(embed_dims=48)), ValueError, "needs the keys .* but got"),
        (dict(window_size=7), ValueError, "`with_cls_token` to be False with `window_size`"),
        (dict(window_size=-1, with_cls_token=False), ValueError, "`window_size` to be a whole number >= 0"),
        (dict(window_size=7.0, with_cls_token=False), ValueError, "`window_size` to be a whole number .* but got 7.0"),
        (dict(global_attn_indexes=[1]), ValueError, "if there are windows, but got 0"),
        (
            dict(sparsity=dict(skip_windows=True)),
            ValueError,
            "^Argument `sparsity`: skip_windows is only for mmsparse.DynamicSwin",
        ),
        (dict(sparsity=dict(ratio=0.7)), ValueError, "^Argument `sparsity` has the unknown key 'ratio'; it knows "),
        (dict(depth=3), TypeError, "^DynamicViT: .*'depth'.* arguments of VisionTransformer: arch, img_size, "),
        (
            dict(sparsity=dict(explore=0.5), window_size=7, with_cls_token=False),
            ValueError,
            "with windows.* `explore` can only be 1.0, but got 0.5",
        ),
        (dict(sparsity=dict(explore=0.5, cumulative=True, keys="entering")), ValueError, "`explore` can only be 1.0"),
        (dict(sparsity=dict(keep_ratio=1.5)), ValueError, r"`keep_ratio` to be in \(0, 1\], but got 1.5"),
        (
            dict(sparsity=dict(places=[4])),
            ValueError,
            r"`places` to hold block numbers < 4, or pairs \(0, block\), but got \(0, 4\)",
        ),
        (dict(sparsity=dict(places=["1"])), TypeError, r"`places` to hold block numbers < 4, .* but got '1'"),
        (dict(sparsity=dict(places=1)), TypeError, r"`places` to be block numbers < 4, .* but got 1$"),
        (dict(sparsity=dict(places="all")), ValueError, r"`places` to be block numbers < 4, .* but got 'all'$"),
        (dict(sparsity=dict(cumulative=True, keep_ratio=[0.3, 0.5, 0.2])), ValueError, "to fall from place to place"),
        (dict(sparsity=dict(keys="all")), ValueError, "`keys` to be 'selected' or 'entering', but got 'all'"),
        (dict(sparsity=dict(keys="entering")), ValueError, "dropped for good: add cumulative=True, or remove it"),
        (
            dict(sparsity=dict(keys="entering", cumulative=True), window_size=7, with_cls_token=False),
            ValueError,
            r"attention among all, but there are windows \(`window_size`=7\). Remove either",
        ),
    ],
)
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        build(**arguments)


def test_input_must_be_pictures():
    with pytest.raises(ValueError, match=r"images of shape \(B, C, H, W\), but got \(3, 96, 96\)"):
        build()(torch.zeros(3, 96, 96))
