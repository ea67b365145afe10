"""Weights of real networks of timm and transformers: ours compute the same with them, and they come back equal."""

import re

import hub
import pytest
import torch
import torch.nn.functional as F
from hub import in_the_hub, transformers  # noqa: F401
from mmpretrain.models import ConvNeXt
from mmseg.models import EncoderDecoder, SwinTransformer

from mmsparse.models.convert import check_fit, convert_dense, convert_outward
from mmsparse.registry import build

EXACT = dict(rtol=0, atol=1e-10)
NEAR = dict(rtol=0, atol=1e-5)
COMPUTED = r".*relative_position_index"


def weights_are(states, **more):
    """The same conversion from all of several states; see ``ours``."""
    first, *others = [ours(state, **more) for state in states]
    for _, converted in others:
        assert converted.weights.keys() == first[1].weights.keys() and converted.backbone == first[1].backbone
        assert all(torch.equal(value, first[1].weights[key]) for key, value in converted.weights.items())
    return first


def ours(state, **more):
    """Our dense network with converted weights, all of which fit, in their precision."""
    converted = convert_dense(state)
    fit = check_fit(converted)
    assert not fit.unexpected and not fit.carried
    model = build({**converted.backbone, **more}).double().eval()
    weights = {k.removeprefix("backbone."): v for k, v in converted.weights.items() if k.startswith("backbone.")}
    result = model.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys and all(re.match(COMPUTED, key) for key in result.missing_keys)
    return model, converted


def picture(*size):
    return torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def body_of(model):
    """Without the classifier."""
    return getattr(model, model.base_model_prefix) if hasattr(model, "classifier") else model


def logits_of(converted, features, head="head.fc."):
    return F.linear(features, converted.weights[f"{head}weight"], converted.weights[f"{head}bias"])


@pytest.mark.parametrize("version", ["", "V2"])
@pytest.mark.parametrize("classes", [0, 7])
@torch.no_grad()
def test_convnext_of_transformers(version, classes, tmp_path):
    theirs, x = hub.convnext(version, classes, layer_norm_eps=1e-6), picture(67, 96)
    model, converted = weights_are(hub.states(theirs, tmp_path))
    (pooled,) = model(x)
    torch.testing.assert_close(pooled, body_of(theirs)(x).pooler_output, **EXACT)
    assert converted.layout == f"Hugging Face ConvNeXt{' V2' if version else ''}" and not converted.left_out
    if classes:
        torch.testing.assert_close(logits_of(converted, pooled), theirs(x).logits, **EXACT)
    stock = ConvNeXt(**{k: v for k, v in converted.backbone.items() if k != "type"}).double()
    stock.load_state_dict(model.state_dict(), strict=True)
    stock.eval()
    torch.testing.assert_close(stock(x)[0], pooled, **EXACT)


@torch.no_grad()
def test_the_norm_before_the_head_has_an_eps_of_its_own_in_convnext():
    theirs, x = hub.convnext(layer_norm_eps=1e-12), picture(64, 64)
    model, converted = ours(theirs.state_dict())
    torch.testing.assert_close(model(x)[0], theirs(x).pooler_output, **NEAR)
    assert "layer_norm_eps" in converted.notes[0]


@torch.no_grad()
def test_dinov3_convnext(tmp_path):
    theirs, x = hub.dinov3_convnext(), picture(64, 96)
    expected = theirs(x)
    torch.testing.assert_close(weights_are(hub.states(theirs, tmp_path))[0](x)[0], expected.pooler_output, **EXACT)
    (maps,) = ours(theirs.state_dict(), gap_before_final_norm=False)[0](x)
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), expected.last_hidden_state[:, 1:], **EXACT)


@pytest.mark.parametrize("classes", [0, 7])
@torch.no_grad()
def test_swin_of_transformers(classes, tmp_path):
    theirs, x = hub.swin(classes), picture(128, 128)
    model, converted = weights_are(hub.states(theirs, tmp_path), shift_one_window=False)
    (maps,) = model(x)
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), body_of(theirs)(x).last_hidden_state, **EXACT)
    if classes:
        torch.testing.assert_close(logits_of(converted, maps.mean((2, 3))), theirs(x).logits, **EXACT)
    given = {k: v for k, v in converted.backbone.items() if k != "type"}
    stock = SwinTransformer(**given).double()
    stock.load_state_dict(model.state_dict(), strict=True)
    stock.eval()
    same, _ = ours(theirs.state_dict())
    torch.testing.assert_close(stock(x)[0], same(x)[0], **EXACT)


@pytest.mark.parametrize("classes", [0, 7])
@torch.no_grad()
def test_vit_of_transformers(classes, tmp_path):
    theirs, x = hub.vit(classes), picture(64, 64)
    model, converted = weights_are(hub.states(theirs, tmp_path), out_type="raw")
    (tokens,) = model(x)
    torch.testing.assert_close(tokens, body_of(theirs)(x).last_hidden_state, **EXACT)
    assert converted.backbone["norm_cfg"] == dict(type="LN", eps=1e-12) and "1e-12" in converted.notes[0]
    if classes:
        logits = logits_of(converted, tokens[:, 0], "head.layers.head.")
        torch.testing.assert_close(logits, theirs(x).logits, **EXACT)
    else:
        assert set(converted.left_out) == {"pooler.dense.weight", "pooler.dense.bias"}
    other = picture(80, 96)  # resized in single precision there
    expected = body_of(theirs)(other, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(model(other)[0], expected, **NEAR)


@pytest.mark.parametrize("arguments", [{}, dict(classes=7), dict(use_swiglu_ffn=True), dict(registers=True)])
@torch.no_grad()
def test_dinov2_of_transformers(arguments, tmp_path):
    theirs = hub.dinov2(**arguments)
    model, converted = weights_are(hub.states(theirs, tmp_path), out_type="raw")
    # with registers, and with them alone, theirs smooths positions that it makes fewer or more of
    for x in (picture(70, 70), picture(84, 126))[: 1 if arguments.get("registers") else 2]:
        torch.testing.assert_close(model(x)[0], body_of(theirs)(x).last_hidden_state, **NEAR)
    assert converted.backbone["patch_size"] == 14 and converted.backbone["img_size"] == 70
    mask = {key for key in theirs.state_dict() if key.endswith("mask_token")}
    classifier = {"classifier.weight", "classifier.bias"} if arguments.get("classes") else set()
    assert set(converted.left_out) == mask | classifier


@pytest.mark.parametrize("name", hub.TIMM)
@pytest.mark.parametrize("classes", [0, 7])
@torch.no_grad()
def test_networks_of_timm(name, classes):
    theirs = hub.TIMM[name](num_classes=classes)
    vit, swin = name.startswith(("vit", "dinov2")), name == "swin"
    x = picture(*(theirs.patch_embed.img_size if vit or swin else (67, 96)))
    model, converted = ours(
        theirs.state_dict(), **({"out_type": "raw"} if vit else {}), **(dict(shift_one_window=False) if swin else {})
    )
    (features,), expected = model(x), theirs.forward_features(x)
    if swin:
        features = features.permute(0, 2, 3, 1)
    if not vit and not swin:
        expected = theirs.forward_head(expected, pre_logits=True)
    torch.testing.assert_close(features, expected, **EXACT)
    if classes:
        pooled = features[:, 0] if vit else features.mean((1, 2)) if swin else features
        logits = logits_of(converted, pooled, "head.layers.head." if vit else "head.fc.")
        torch.testing.assert_close(logits, theirs(x), **EXACT)


@pytest.mark.parametrize("name", ["convnext", "convnextv2", "swin"])
@torch.no_grad()
def test_upernet_becomes_a_segmenter_of_mmseg(name, tmp_path):
    theirs, x = hub.upernet(name), picture(96, 160)
    in_memory, converted = map(convert_dense, hub.states(theirs, tmp_path))
    assert all(torch.equal(in_memory.weights[key], value) for key, value in converted.weights.items())
    assert in_memory.weights.keys() == converted.weights.keys() and in_memory.heads == converted.heads
    fit = check_fit(converted)
    assert not fit.missing and not fit.unexpected and not fit.carried
    model = EncoderDecoder(backbone=converted.backbone, test_cfg=dict(mode="whole"), **converted.heads)
    result = model.double().eval().load_state_dict(converted.weights, strict=False)
    assert not result.unexpected_keys and all(re.match(COMPUTED, key) for key in result.missing_keys)
    features = model.extract_feat(x)
    for ours, expected in zip(features, theirs.backbone(x).feature_maps, strict=True):
        torch.testing.assert_close(ours, expected, **EXACT)
    logits = F.interpolate(model.decode_head(features), size=x.shape[2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, theirs(x).logits, **EXACT)
    auxiliary = theirs.auxiliary_head(theirs.backbone(x).feature_maps)
    torch.testing.assert_close(model.auxiliary_head(features), auxiliary, **EXACT)
    routed = build({**converted.heads["decode_head"], "type": "mmsparse.DynamicUPerHead", "sparsity": {}})
    head = {k.removeprefix("decode_head."): v for k, v in converted.weights.items() if k.startswith("decode_head.")}
    result = routed.load_state_dict(head, strict=False)
    assert not result.unexpected_keys and all(key.startswith("router.") for key in result.missing_keys)


@pytest.mark.parametrize(
    "config",
    [
        dict(use_auxiliary_head=False),
        dict(auxiliary_num_convs=2),
        dict(auxiliary_concat_input=True),
    ],
)
@torch.no_grad()
def test_upernets_with_other_auxiliary_heads(config):
    theirs, x = hub.upernet("convnext", **config), picture(64, 64)
    converted = convert_dense(theirs.state_dict())
    check_fit(converted)
    model = EncoderDecoder(backbone=converted.backbone, **converted.heads).double().eval()
    model.load_state_dict(converted.weights, strict=True)
    features = model.extract_feat(x)
    assert model.with_auxiliary_head == config.get("use_auxiliary_head", True)
    if model.with_auxiliary_head:
        expected = theirs.auxiliary_head(theirs.backbone(x).feature_maps)
        torch.testing.assert_close(model.auxiliary_head(features), expected, **EXACT)


HUB = {
    "convnext": hub.convnext,
    "convnext with classifier": lambda: hub.convnext(classes=7),
    "convnextv2": lambda: hub.convnext("V2"),
    "convnextv2 with classifier": lambda: hub.convnext("V2", 7),
    "swin": hub.swin,
    "swin with classifier": lambda: hub.swin(7),
    "vit": lambda: hub.vit(pooler=False),
    "vit with classifier": lambda: hub.vit(7),
    "dinov2": lambda: hub.dinov2(use_mask_token=False),
    "dinov2 with swiglu": lambda: hub.dinov2(use_mask_token=False, use_swiglu_ffn=True),
    "upernet with convnext": lambda: hub.upernet("convnext"),
    "upernet with convnextv2": lambda: hub.upernet("convnextv2", use_auxiliary_head=False),
    "upernet with swin": lambda: hub.upernet("swin"),
}


@pytest.mark.parametrize("name", HUB)
def test_weights_of_the_hub_come_back(name, tmp_path):
    theirs = HUB[name]()
    released = convert_outward(convert_dense(theirs.state_dict()).weights, "hf")
    assert not released.left_out and all(key.startswith("head.") for key in released.missing)
    pooler = {"add_pooling_layer": False} if name == "vit" else {}
    twin = hub.loaded(theirs, released.weights, tmp_path, **pooler)
    own = theirs.state_dict()
    for key, value in twin.state_dict().items():
        assert torch.equal(value, own[key]) or key.startswith("backbone.swin.layernorm."), key  # which nothing uses


def test_registers_come_back(tmp_path):
    """All but the token for masks, which that class always has and never uses in inference."""
    theirs = hub.dinov2(registers=True)
    own, masks = theirs.state_dict(), "embeddings.mask_token"
    released = convert_outward(convert_dense(own).weights, "hf")
    twin = hub.loaded(theirs, {**released.weights, masks: own[masks]}, tmp_path)
    assert masks not in released.weights
    for key, value in twin.state_dict().items():
        assert torch.equal(value, own[key]), key


@pytest.mark.parametrize("name", hub.TIMM)
@pytest.mark.parametrize("classes", [0, 7])
def test_weights_of_timm_come_back(name, classes):
    theirs, blank = (hub.TIMM[name](num_classes=classes) for _ in range(2))
    released = convert_outward(convert_dense(theirs.state_dict()).weights, "timm")
    assert not released.left_out and len(released.missing) == (0 if classes else 2)
    blank.load_state_dict({key: torch.zeros_like(value) for key, value in theirs.state_dict().items()})
    blank.load_state_dict(released.weights, strict=True)
    for key, value in blank.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key]), key


def test_networks_of_timm_and_of_the_hub_are_each_other_s(tmp_path):
    """Through the layout of OpenMMLab."""
    theirs = hub.TIMM["dinov2"](num_classes=0)
    middle = convert_dense(theirs.state_dict()).weights
    twin = hub.loaded(hub.dinov2(use_mask_token=False), convert_outward(middle, "hf").weights, tmp_path)
    x = picture(70, 70)
    with torch.no_grad():
        torch.testing.assert_close(twin(x).last_hidden_state, theirs.forward_features(x), **EXACT)


def maps_and_norms(family):
    """A backbone of ours as in detectors and segmenters, with a norm for each of several maps."""
    if family == "swin":
        sizes = dict(embed_dims=8, depths=(2, 2, 2, 1), num_heads=(1, 2, 2, 4), window_size=4, out_indices=(1, 2, 3))
        return dict(type="mmsparse.DynamicSwin", **sizes)
    arch = dict(depths=hub.DEPTHS, channels=hub.CHANNELS)
    return dict(type="mmsparse.DynamicConvNeXt", arch=arch, out_indices=(0, 1, 2, 3), gap_before_final_norm=False)


@pytest.mark.parametrize("family", ["convnext", "swin"])
@torch.no_grad()
def test_a_routed_backbone_of_a_detector_goes_out_as_the_dense_one(family, tmp_path):
    model = hub.shaken(build({**maps_and_norms(family), "sparsity": dict(keep_ratio=0.5, places=[(1, 1), (2, 0)])}))
    state = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    released = convert_outward({**state, "neck.convs.0.weight": torch.ones(1), "neck.router.x": torch.ones(1)}, "hf")
    routed = {key for key in state if ".router." in key} | {"neck.router.x"}
    assert len(routed) > 10 and set(released.left_out) == {*routed, "neck.convs.0.weight"}
    assert "keep_ratio=1" in released.notes[-1]
    outs = [f"stage{i + 1}" for i in model.out_indices]
    if family == "swin":
        blank = transformers.SwinBackbone(hub.swin_config(out_features=outs))
    else:
        config = transformers.ConvNextConfig(hidden_sizes=hub.CHANNELS, depths=hub.DEPTHS, out_features=outs)
        blank = transformers.ConvNextBackbone(config)
    twin = hub.loaded(blank, released.weights, tmp_path)
    dense = build({**maps_and_norms(family), "sparsity": None}).double().eval()
    dense.load_state_dict({key: value for key, value in model.state_dict().items() if "router." not in key})
    x = picture(128, 96)
    for ours, expected in zip(dense(x), twin(x).feature_maps, strict=True):
        torch.testing.assert_close(ours, expected, **EXACT)


def test_a_dense_network_has_no_gates_to_warn_of():
    state = {f"backbone.{key}": value for key, value in build(maps_and_norms("convnext")).state_dict().items()}
    released = convert_outward(state, "timm")
    assert released.left_out == tuple(f"norm{i}.{p}" for i in range(3) for p in ("weight", "bias"))
    assert not any("keep_ratio" in note for note in released.notes)
