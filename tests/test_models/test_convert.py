"""Conversions against the names of the releases: which network a file is for, and which files are for none."""

import official
import pytest
import torch
from mmdet.models.backbones.swin import swin_converter
from mmpretrain.models import VisionTransformer

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


@pytest.mark.usefixtures("unfilled")
@pytest.mark.parametrize("arch", CONVNEXTS)
def test_released_convnexts_fit(arch):
    depths, channels, first = CONVNEXTS[arch]
    converted = convert_dynamicvit(official.convnext(depths, channels, first, light=True))
    fit = check_fit(converted)
    assert converted.backbone["arch"] == arch
    assert not fit.missing and not fit.unexpected and len(fit.loaded) == len(converted.weights)
    assert converted.backbone["sparsity"]["places"] == [(2, first * k) for k in (1, 2, 3)]
    assert build({**converted.backbone, "sparsity": {}}).router.places == ((2, first), (2, 2 * first), (2, 3 * first))


@pytest.mark.usefixtures("unfilled")
@pytest.mark.parametrize("arch", SWINS)
def test_released_swins_fit(arch):
    dims, depths, heads, first = SWINS[arch]
    converted = convert_dynamicvit(official.swin(dims, depths, heads, first=first, light=True))
    fit = check_fit(converted)
    expected = dict(type="mmsparse.DynamicSwin", embed_dims=dims, depths=depths, num_heads=heads, window_size=7)
    assert converted.backbone.items() >= expected.items()
    assert not fit.missing and not fit.unexpected and len(fit.loaded) == len(converted.weights)
    assert converted.backbone["sparsity"]["places"] == [(2, first * k) for k in (1, 2, 3)]


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


@pytest.mark.usefixtures("unfilled")
@pytest.mark.parametrize("arch, v2", [("tiny", False), ("small", False), ("base", False), ("tiny", True)])
@pytest.mark.parametrize("layout", [lambda state: state, official.timm_convnext], ids=["original", "timm"])
def test_dense_convnexts_fit(arch, v2, layout):
    depths, channels, _ = CONVNEXTS[arch]
    converted = convert_dense(layout(official.convnext(depths, channels, v2=v2, light=True)))
    fit = check_fit(converted)
    assert converted.backbone["arch"] == arch and converted.backbone.get("use_grn", False) == v2
    assert not fit.missing and not fit.unexpected and len(fit.loaded) == len(converted.weights)


@pytest.mark.usefixtures("unfilled")
@pytest.mark.parametrize("arch", SWINS)
@pytest.mark.parametrize("layout", [lambda state: state, official.timm_swin], ids=["original", "timm"])
def test_dense_swins_fit(arch, layout):
    dims, depths, heads, _ = SWINS[arch]
    converted = convert_dense(layout(official.swin(dims, depths, heads, light=True)))
    fit = check_fit(converted)
    assert not fit.missing and not fit.unexpected and len(fit.loaded) == len(converted.weights)


@pytest.mark.usefixtures("unfilled")
@pytest.mark.parametrize("dims, arch", [(192, "deit-tiny"), (384, "deit-small"), (768, "base")])
def test_dense_vits_fit(dims, arch):
    converted = convert_dense(official.vit(dims, light=True))
    fit = check_fit(converted)
    assert converted.backbone["arch"] == arch
    assert not fit.missing and not fit.unexpected and len(fit.loaded) == len(converted.weights)
    assert converted.weights["head.layers.head.weight"].shape == (10, dims)


@pytest.mark.usefixtures("unfilled")
@pytest.mark.parametrize("dims, depth, heads", [(1280, 32, 16), (1024, 24, 16), (192, 24, 3)])
def test_heads_of_known_vits_and_of_others(dims, depth, heads):
    converted = convert_dense(official.vit(dims, depth, light=True))
    arch = converted.backbone["arch"]
    assert (arch if isinstance(arch, dict) else VisionTransformer.arch_zoo[arch])["num_heads"] == heads
    assert "num_heads" in converted.notes[0]


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


@pytest.mark.usefixtures("unfilled")
@pytest.mark.parametrize("dims, arch", [(384, "deit-small"), (768, "base")])
def test_released_deits_fit(dims, arch):
    converted = convert_dynamicvit(official.vit(dims, predictors=3, light=True))
    fit = check_fit(converted)
    assert converted.backbone["arch"] == arch and converted.backbone["sparsity"]["cumulative"] is True
    assert converted.backbone["sparsity"]["places"] == [(0, 3), (0, 6), (0, 9)]
    assert not fit.missing and not fit.unexpected and len(fit.loaded) == len(converted.weights)


TINY = ((1, 1, 2, 1), (4, 8, 16, 32))


@pytest.mark.parametrize(
    "convert, state, message",
    [
        (convert_dense, lambda: {"conv1.weight": torch.ones(1)}, "unknown layout, with keys such as .*conv1.weight"),
        (convert_dense, lambda: official.convnext((1, 1, 4, 1), TINY[1], 1), "use `mmsparse convert-dynamicvit`"),
        (convert_dense, lambda: {**official.vit(64, 2), "dist_token": torch.ones(1)}, "distilled DeiT"),
        (convert_dense, lambda: convert_dense(official.convnext(*TINY)).weights, "already have the OpenMMLab layout"),
        (convert_dense, lambda: convert_dense(official.vit(64, 2)).weights, "already have the OpenMMLab layout"),
        (convert_dynamicvit, lambda: official.convnext(*TINY), "for dense ones use `mmsparse convert-dense`"),
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
