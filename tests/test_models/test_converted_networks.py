"""Converted networks compute what the formulas of the releases say."""

import re

import official
import pytest
import torch
import torch.nn.functional as F
from release_formulas import convnext_formula, linear, log_probabilities, norm, official_mask, vit_formula

from mmsparse.models.convert import convert_dense, convert_dynamicvit
from mmsparse.registry import build

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
    model = loaded(convert_dynamicvit(state)).double()  # its weights, which are differences, were rounded once
    state = {key: value.double() for key, value in state.items()}
    for k, decision in enumerate(model.router.decisions.values()):
        tokens = scale * torch.randn(2, 49, decision.scorer.channels, dtype=torch.float64)
        theirs = log_probabilities(state, name.format(k), tokens, eps)
        ours = decision.scorer(tokens)
        torch.testing.assert_close(ours, theirs[..., 0] - theirs[..., 1], rtol=0, atol=1e-6)
        torch.testing.assert_close(ours.sigmoid(), theirs[..., 0].exp(), rtol=0, atol=1e-6)
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


@torch.no_grad()
def test_converted_dense_vit_computes_the_formula():
    state = official.vit(128, depth=3, size=64)
    x = torch.randn(2, 3, 64, 64)
    (ours,) = loaded(convert_dense(state))(x)
    torch.testing.assert_close(ours, vit_formula(state, 3, 2, (), x)[0], rtol=0, atol=1e-5)


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
