"""Conversions against the names of the releases, and against what their formulas compute."""

import math
import re

import official
import pytest
import torch
import torch.nn.functional as F
from mmdet.models.backbones.swin import swin_converter

from mmsparse.models.convert import check_fit, convert_dense, convert_dynamicvit
from mmsparse.registry import build

CONVNEXTS = {
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768), 1),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768), 3),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024), 3),
}
SWINS = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), 1),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24), 2),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32), 2),
}
COUNTS = (137, 97, 58)  # of 14 x 14, at 0.7, in the official code


def loaded(converted, *, fresh="relative_position_index", **more):
    """The network that the conversion names, with its weights; everything must be there and fit."""
    model = build({**converted.backbone, **more}).eval()
    state = {k.removeprefix("backbone."): v for k, v in converted.weights.items() if k.startswith("backbone.")}
    result = model.load_state_dict(state, strict=False)
    missing = [key for key in result.missing_keys if not re.search(fresh, key)]
    assert not missing and not result.unexpected_keys
    return model


def with_ratio(converted, keep_ratio):
    return {"sparsity": {**converted.backbone["sparsity"], "keep_ratio": keep_ratio}}


def norm(rows, state, name, eps):
    return F.layer_norm(rows, rows.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def linear(rows, state, name):
    return F.linear(rows, state[f"{name}.weight"].flatten(1), state[f"{name}.bias"])


def log_probabilities(state, name, tokens, eps):
    """The predictor of the release: (B, N, C) -> (B, N, 2), keep first."""
    u = F.gelu(linear(norm(tokens, state, f"{name}.in_conv.0", eps), state, f"{name}.in_conv.1"))
    local, context = u.chunk(2, dim=-1)
    z = torch.cat([local, context.mean(1, keepdim=True).expand_as(local)], dim=-1)
    z = F.gelu(linear(z, state, f"{name}.out_conv.0"))
    z = F.gelu(linear(z, state, f"{name}.out_conv.2"))
    return linear(z, state, f"{name}.out_conv.4").log_softmax(dim=-1)


def official_mask(scores, count):
    mask = torch.zeros_like(scores, dtype=torch.bool)
    return mask.scatter(1, scores.argsort(dim=1, descending=True)[:, :count], True)


@pytest.mark.parametrize("arch", CONVNEXTS)
def test_released_convnexts_fit(arch):
    depths, channels, first = CONVNEXTS[arch]
    converted = convert_dynamicvit(official.convnext(depths, channels, first, light=True))
    fit = check_fit(converted)
    assert converted.backbone["arch"] == arch
    assert not fit.missing and not fit.unexpected and len(fit.loaded) == len(converted.weights)
    assert converted.backbone["sparsity"]["places"] == [(2, first * k) for k in (1, 2, 3)]
    assert build({**converted.backbone, "sparsity": {}}).router.places == ((2, first), (2, 2 * first), (2, 3 * first))


@pytest.mark.parametrize("arch", SWINS)
def test_released_swins_fit(arch):
    dims, depths, heads, first = SWINS[arch]
    converted = convert_dynamicvit(official.swin(dims, depths, heads, first=first, light=True))
    fit = check_fit(converted)
    expected = dict(type="mmsparse.DynamicSwin", embed_dims=dims, depths=depths, num_heads=heads, window_size=7)
    assert converted.backbone.items() >= expected.items()
    assert not fit.missing and not fit.unexpected and len(fit.loaded) == len(converted.weights)
    assert converted.backbone["sparsity"]["places"] == [(2, first * k) for k in (1, 2, 3)]


RELEASES = {  # weights, name of the k-th predictor, eps of its norms
    "convnext": (lambda: official.convnext((1, 1, 6, 1), (8, 16, 32, 64), 1), "score_predictor.{}", 1e-6),
    "swin": (lambda: official.swin(8, (2, 2, 6, 2), (1, 1, 2, 2), first=1), "layers.2.score_predictor.{}", 1e-5),
    "vit": (lambda: official.vit(64, depth=4, predictors=3), "score_predictor.{}", 1e-5),
}


@pytest.mark.parametrize("family", RELEASES)
@pytest.mark.parametrize("scale", [1.0, 3e-3])  # in faint tokens the eps of the norm counts
def test_converted_scorer_orders_as_the_two_log_probabilities(family, scale):
    make, name, eps = RELEASES[family]
    state = make()
    model = loaded(convert_dynamicvit(state))
    for k, decision in enumerate(model.router.decisions.values()):
        tokens = scale * torch.randn(2, 49, decision.scorer.channels)
        theirs = log_probabilities(state, name.format(k), tokens, eps)
        ours = decision.scorer(tokens)
        torch.testing.assert_close(ours, theirs[..., 0] - theirs[..., 1], rtol=0, atol=2e-5)
        torch.testing.assert_close(ours.sigmoid(), theirs[..., 0].exp(), rtol=0, atol=1e-5)
        count = 24
        assert torch.equal(official_mask(ours, count), official_mask(theirs[..., 0], count))


@pytest.mark.parametrize("scale", [1.0, 3e-3])
@pytest.mark.parametrize("family", ["convnext", "swin"])
def test_converted_fast_path_computes_the_formula(family, scale):
    make, _, eps = RELEASES[family]
    state = make()
    model = loaded(convert_dynamicvit(state))
    rows = scale * torch.randn(50, 32)
    for block in range(1, 6):
        name = f"stages.2.{block}.fast_path" if family == "convnext" else f"layers.2.blocks.{block}.fastmlp.fc1"
        theirs = linear(norm(rows, state, f"{name}.0", eps), state, f"{name}.1")
        if family == "convnext":
            theirs = state[f"{name}_gamma"] * theirs
        torch.testing.assert_close(model.router.fast_paths[f"2_{block}"](rows), theirs, rtol=0, atol=1e-5)


def convnext_formula(state, depths, first, counts, x):
    """The released network at inference, on NHWC maps."""
    masks = []

    def conv(x, name, **kwargs):
        x = F.conv2d(x.permute(0, 3, 1, 2), state[f"{name}.weight"], state[f"{name}.bias"], **kwargs)
        return x.permute(0, 2, 3, 1)

    for i, depth in enumerate(depths):
        down = f"downsample_layers.{i}"
        if i == 0:
            x = norm(conv(x, f"{down}.0", stride=4), state, f"{down}.1", 1e-6)
        else:
            x = conv(norm(x, state, f"{down}.0", 1e-6), f"{down}.1", stride=2)
        for j in range(depth):
            block = f"stages.{i}.{j}"
            if i == 2 and j in (first, 2 * first, 3 * first):
                k = j // first - 1
                scores = log_probabilities(state, f"score_predictor.{k}", x.flatten(1, 2), 1e-6)[..., 0]
                masks.append(official_mask(scores, counts[k]))
            h = conv(x, f"{block}.dwconv", padding=3, groups=x.shape[-1])
            slow = linear(norm(h, state, f"{block}.norm", 1e-6), state, f"{block}.pwconv1")
            branch = state[f"{block}.gamma"] * linear(F.gelu(slow), state, f"{block}.pwconv2")
            if i == 2 and j >= first:
                fast = linear(norm(h, state, f"{block}.fast_path.0", 1e-6), state, f"{block}.fast_path.1")
                fast = state[f"{block}.fast_path_gamma"] * fast
                branch = torch.where(masks[-1].view(*h.shape[:3], 1), branch, fast)
            x = x + branch
    return norm(x.mean((1, 2)), state, "norm", 1e-6), masks


@pytest.mark.parametrize("first, depth", [(1, 6), (3, 18)])
def test_converted_convnext_computes_what_the_release_does(first, depth):
    depths, counts = (1, 1, depth, 1), COUNTS
    state = official.convnext(depths, (8, 16, 32, 64), first)
    converted = convert_dynamicvit(state)
    model = loaded(converted, **with_ratio(converted, [n / 196 for n in counts]))
    selections = record_selections(model)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        (ours,) = model(x)
        theirs, masks = convnext_formula(state, depths, first, counts, x.permute(0, 2, 3, 1))
    assert [s.num_keep for s in selections] == [[n, n] for n in counts]
    for selection, mask in zip(selections, masks, strict=True):
        assert torch.equal(selection.keep_mask, mask)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def record_selections(model):
    selections = []
    for decision in model.router.decisions.values():
        decision.register_forward_hook(lambda _, __, selection: selections.append(selection))
    return selections


def test_converted_swin_routes_as_the_release_does():
    counts = (137, 98, 59)
    state = official.swin(8, (2, 2, 6, 2), (1, 1, 2, 2), first=1)
    converted = convert_dynamicvit(state)
    model = loaded(converted, **with_ratio(converted, 0.7), out_indices=(2, 3), fresh="_index|norm2")
    selections, attended, blocks = record_selections(model), [], model.stages[2].blocks
    for block in blocks:
        block.attn.register_forward_hook(lambda _, __, out: attended.append(out))
    with torch.no_grad():
        tokens = []
        blocks[0].norm1.register_forward_pre_hook(lambda _, args: tokens.append(args[0]))
        ours, _ = model(torch.randn(2, 3, 224, 224))
        x, mask = tokens[0], None
        for j in range(6):
            name = f"layers.2.blocks.{j}"
            if j in (1, 2, 3):
                scores = log_probabilities(state, f"layers.2.score_predictor.{j - 1}", x, 1e-5)[..., 0]
                mask = official_mask(scores, counts[j - 1])
                assert torch.equal(selections[j - 1].keep_mask, mask)
            a = x + attended[j]  # attention is the stock class's
            slow = F.gelu(linear(norm(a, state, f"{name}.norm2", 1e-5), state, f"{name}.mlp.fc1"))
            slow = linear(slow, state, f"{name}.mlp.fc2")
            if mask is None:
                x = a + slow
            else:
                fast = linear(norm(a, state, f"{name}.fastmlp.fc1.0", 1e-5), state, f"{name}.fastmlp.fc1.1")
                x = a + torch.where(mask[..., None], slow, fast)
        x = norm(x, {"n.weight": model.norm2.weight, "n.bias": model.norm2.bias}, "n", 1e-5)
    torch.testing.assert_close(ours.flatten(2).transpose(1, 2), x, rtol=0, atol=1e-4)


def test_original_swin_converts_as_in_mmdet():
    state = official.swin(8, (2, 2, 2, 2), (1, 2, 2, 4))
    stock = {key.removeprefix("backbone."): value for key, value in swin_converter(state).items()}
    ours = convert_dense(state).weights
    for key, value in stock.items():
        if key.endswith(("attn_mask", "relative_position_index")):
            assert f"backbone.{key}" not in ours
        else:
            name = key.replace("norm.", "norm3.") if key.startswith("norm.") else key
            assert torch.equal(ours[f"backbone.{name}"], value), key
    assert torch.equal(ours["head.fc.weight"], state["head.weight"])


@pytest.mark.parametrize("arch, v2", [("tiny", False), ("small", False), ("base", False), ("tiny", True)])
@pytest.mark.parametrize("layout", [lambda state: state, official.timm_convnext], ids=["original", "timm"])
def test_dense_convnexts_fit(arch, v2, layout):
    depths, channels, _ = CONVNEXTS[arch]
    converted = convert_dense(layout(official.convnext(depths, channels, v2=v2, light=True)))
    fit = check_fit(converted)
    assert converted.backbone["arch"] == arch and converted.backbone.get("use_grn", False) == v2
    assert not fit.missing and not fit.unexpected and len(fit.loaded) == len(converted.weights)


@pytest.mark.parametrize("arch", SWINS)
@pytest.mark.parametrize("layout", [lambda state: state, official.timm_swin], ids=["original", "timm"])
def test_dense_swins_fit(arch, layout):
    dims, depths, heads, _ = SWINS[arch]
    converted = convert_dense(layout(official.swin(dims, depths, heads, light=True)))
    fit = check_fit(converted)
    assert not fit.missing and not fit.unexpected and len(fit.loaded) == len(converted.weights)


@pytest.mark.parametrize("dims, arch", [(192, "deit-tiny"), (384, "deit-small"), (768, "base")])
def test_dense_vits_fit(dims, arch):
    converted = convert_dense(official.vit(dims, light=True))
    fit = check_fit(converted)
    assert converted.backbone["arch"] == arch
    assert not fit.missing and not fit.unexpected and len(fit.loaded) == len(converted.weights)
    assert converted.weights["head.layers.head.weight"].shape == (10, dims)


def test_layouts_of_one_network_give_the_same_weights():
    for make, other in (
        (lambda: official.convnext((1, 1, 2, 1), (4, 8, 16, 32)), official.timm_convnext),
        (lambda: official.convnext((1, 1, 2, 1), (4, 8, 16, 32), v2=True), official.timm_convnext),
        (lambda: official.swin(8, (2, 2, 2, 2), (1, 2, 2, 4)), official.timm_swin),
        (lambda: official.vit(64, depth=2), official.mmseg_vit),
    ):
        state = make()
        one, two = convert_dense(state).weights, convert_dense(other(state)).weights
        assert one.keys() - two.keys() <= {"head.layers.head.weight", "head.layers.head.bias"}
        for key, value in two.items():
            assert torch.equal(one[key], value), key


def test_mmseg_segmenter_keeps_its_head():
    state = {f"backbone.{k}": v for k, v in official.mmseg_vit(official.vit(64, depth=2)).items()}
    converted = convert_dense({**state, "decode_head.conv_seg.weight": torch.ones(1)})
    fit = check_fit(converted)
    assert fit.carried == ["decode_head.conv_seg.weight"] and not fit.unexpected
    assert fit.missing == ["head.layers.head.weight", "head.layers.head.bias"]
    assert torch.equal(converted.weights["decode_head.conv_seg.weight"], torch.ones(1))


def vit_formula(state, depth, heads, counts, x):
    """The released network at inference: dropped tokens never come back. Class token, and the tokens kept at places."""
    patch = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=16)
    tokens = patch.flatten(2).transpose(1, 2)
    x = torch.cat([state["cls_token"].expand(len(tokens), -1, -1), tokens], dim=1) + state["pos_embed"]
    alive, kept = torch.arange(tokens.shape[1]).expand(len(tokens), -1), []
    for j in range(depth):
        name = f"blocks.{j}"
        if counts and j in (depth // 4, depth // 2, 3 * depth // 4):
            k = len(kept)
            scores = log_probabilities(state, f"score_predictor.{k}", x[:, 1:], 1e-5)[..., 0]
            best = scores.argsort(dim=1, descending=True)[:, : counts[k]]
            alive = alive.gather(1, best)
            kept.append(alive.sort(dim=1).values)
            chosen = x[:, 1:].gather(1, best[..., None].expand(-1, -1, x.shape[-1]))
            x = torch.cat([x[:, :1], chosen], dim=1)
        qkv = linear(norm(x, state, f"{name}.norm1", 1e-6), state, f"{name}.attn.qkv")
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), state, f"{name}.attn.proj")
        hidden = F.gelu(linear(norm(x, state, f"{name}.norm2", 1e-6), state, f"{name}.mlp.fc1"))
        x = x + linear(hidden, state, f"{name}.mlp.fc2")
    return norm(x[:, 0], state, "norm", 1e-6), kept


@torch.no_grad()
def test_converted_dense_vit_computes_the_formula():
    state = official.vit(128, depth=3, size=64)
    x = torch.randn(2, 3, 64, 64)
    (ours,) = loaded(convert_dense(state))(x)
    torch.testing.assert_close(ours, vit_formula(state, 3, 2, (), x)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dims, arch", [(384, "deit-small"), (768, "base")])
def test_released_deits_fit(dims, arch):
    converted = convert_dynamicvit(official.vit(dims, predictors=3, light=True))
    fit = check_fit(converted)
    assert converted.backbone["arch"] == arch and converted.backbone["sparsity"]["cumulative"] is True
    assert converted.backbone["sparsity"]["places"] == [(0, 3), (0, 6), (0, 9)]
    assert not fit.missing and not fit.unexpected and len(fit.loaded) == len(converted.weights)


@torch.no_grad()
def test_converted_deit_computes_what_the_release_does():
    state = official.vit(128, depth=8, predictors=3)
    counts = (137, 96, 67)  # floor(196 * 0.7^k), as in the official code
    converted = convert_dynamicvit(state)
    assert loaded(converted, **with_ratio(converted, 0.7)).router.keep_ratio == pytest.approx((0.7, 0.49, 0.343))
    model = loaded(converted, **with_ratio(converted, [n / 196 for n in counts]))
    selections = record_selections(model)
    x = torch.randn(2, 3, 224, 224)
    (ours,) = model(x)
    theirs, kept = vit_formula(state, 8, 2, counts, x)
    for selection, places in zip(selections, kept, strict=True):
        mask = torch.zeros(2, 196, dtype=torch.bool).scatter(1, places, True)
        assert torch.equal(selection.keep_mask, mask)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


TINY = ((1, 1, 2, 1), (4, 8, 16, 32))


@pytest.mark.parametrize(
    "convert, state, message",
    [
        (convert_dense, lambda: {"conv1.weight": torch.ones(1)}, "unknown layout, with keys such as .*conv1.weight"),
        (convert_dense, lambda: official.convnext((1, 1, 4, 1), TINY[1], 1), "use dynamicvit_to_mmsparse.py"),
        (convert_dense, lambda: {**official.vit(64, 2), "dist_token": torch.ones(1)}, "distilled DeiT"),
        (convert_dense, lambda: convert_dense(official.convnext(*TINY)).weights, "already have the OpenMMLab layout"),
        (convert_dense, lambda: convert_dense(official.vit(64, 2)).weights, "already have the OpenMMLab layout"),
        (convert_dynamicvit, lambda: official.convnext(*TINY), "for dense ones use dense_to_mmsparse.py"),
        (convert_dynamicvit, lambda: {"aux_head.weight": torch.ones(1)}, "LV-ViT"),
        (
            convert_dynamicvit,
            lambda: convert_dynamicvit(official.convnext((1, 1, 4, 1), TINY[1], 1)).weights,
            "already have the OpenMMLab layout",
        ),
    ],
)
def test_other_files_are_refused(convert, state, message):
    with pytest.raises(ValueError, match=message):
        convert(state())


def test_weights_that_do_not_fit_are_refused():
    state = official.convnext(*TINY)
    for change, message in (
        ({"fc_norm.weight": torch.ones(1)}, "1 of them are unexpected, such as backbone.fc_norm.weight"),
        ({"stages.2.1.gamma": torch.ones(7)}, r"have another shape, such as backbone.stages.2.1.gamma \(7,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            check_fit(convert_dense({**state, **change}))
    del state["stages.2.1.pwconv1.bias"]
    with pytest.raises(ValueError, match="1 of them are missing, such as .*stages.2.1.pointwise_conv1.bias"):
        check_fit(convert_dense(state))


def test_pretrained_weights_without_head_fit():
    state = {k: v for k, v in official.convnext(*TINY).items() if not k.startswith(("head.", "norm."))}
    fit = check_fit(convert_dense(state))
    assert fit.missing == ["backbone.norm3.weight", "backbone.norm3.bias", "head.fc.weight", "head.fc.bias"]
