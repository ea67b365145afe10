"""What a routed deformable encoder is by itself: who is refined, from what, at which cost, and what it refuses."""

import pytest
import torch
from mmdet.models.layers import DeformableDetrTransformerEncoder
from torch import nn

from mmsparse import set_keep_ratio
from mmsparse.analysis import count_macs
from mmsparse.apis import find_deciders, record_selections
from mmsparse.cli.building import build_model
from mmsparse.cli.calibrating import write_ratios
from mmsparse.configs import read_config, without_pretrained
from mmsparse.models.encoders.deformable import DeformableEncoder
from mmsparse.rewriting import sparsify

SHAPES = [(12, 16), (6, 8), (3, 4), (2, 2)]
WIDTH, HIDDEN, HEADS, POINTS = 32, 64, 4, 2
PIXELS = "MSDeformAttnPixelDecoder"


def encoder(layers=2, **sparsity):
    attention = dict(embed_dims=WIDTH, num_heads=HEADS, num_levels=4, num_points=POINTS, dropout=0.0)
    layer = dict(self_attn_cfg=attention, ffn_cfg=dict(embed_dims=WIDTH, feedforward_channels=HIDDEN, ffn_drop=0.0))
    torch.manual_seed(0)
    return DeformableEncoder(num_layers=layers, layer_cfg=layer, sparsity=sparsity, owner="DynamicDINO").eval()


def given(batch=1):
    shapes = torch.tensor(SHAPES)
    counts = shapes.prod(1)
    return dict(
        query=torch.randn(batch, int(counts.sum()), WIDTH),
        query_pos=torch.randn(batch, int(counts.sum()), WIDTH),
        key_padding_mask=None,
        spatial_shapes=shapes,
        level_start_index=counts.cumsum(0) - counts,
        valid_ratios=torch.ones(batch, 4, 2),
    )


def test_what_is_not_selected_keeps_its_value_and_is_still_seen():
    model, inputs = encoder(layers=1, keep_ratio=0.25, levels=4), given()
    for layer in model.layers:
        nn.init.normal_(layer.self_attn.attention_weights.weight)
    with torch.no_grad(), record_selections(model) as taken:
        before = model(**inputs)
    assert [name for name, _ in taken] == [f"encoder.level{level}" for level in range(4)]
    assert [selection.num_keep for _, selection in taken] == [[48], [12], [3], [1]]
    refined = torch.cat([selection.keep_mask for _, selection in taken], dim=1)[0]
    assert torch.equal(before[0, ~refined], inputs["query"][0, ~refined])
    assert (before[0, refined] - inputs["query"][0, refined]).abs().amin(dim=1).max() > 0
    with torch.no_grad():  # the same decision; others' values are another picture's
        set_keep_ratio(model, 1.0)
        other = {**inputs, "query": torch.where(refined[None, :, None], inputs["query"], -inputs["query"])}
        expected = DeformableDetrTransformerEncoder.forward(_stock(model), **inputs)
        assert torch.allclose(before[0, refined], expected[0, refined], atol=1e-6)
        seen = DeformableDetrTransformerEncoder.forward(_stock(model), **other)
    assert not torch.allclose(before[0, refined], seen[0, refined], atol=1e-2)


def _stock(model):
    dense = DeformableDetrTransformerEncoder(num_layers=model.num_layers, layer_cfg=model.layer_cfg).eval()
    dense.load_state_dict(model.state_dict(), strict=False)
    return dense


@pytest.mark.parametrize("ratio", [0.5, 0.1])
def test_arithmetic(ratio):
    """Every token is projected to a value; the rest of a layer is for those that are refined."""
    model, inputs = encoder(keep_ratio=ratio, levels=4), given()
    with torch.no_grad(), record_selections(model) as taken:
        macs = count_macs(model, lambda: model(**inputs))
    refined = sum(selection.num_keep[0] for _, selection in taken)
    samples = HEADS * 4 * POINTS
    one = 2 * samples * WIDTH + samples * WIDTH + WIDTH * WIDTH + 2 * WIDTH * HIDDEN
    assert macs.total - macs.scorers == 2 * (len(inputs["query"][0]) * WIDTH * WIDTH + refined * one)


def test_coarse_levels_are_whole():
    model = encoder(levels=2)
    assert list(model.router.decisions) == ["level0", "level1"]
    inputs = given(2)
    with torch.no_grad():
        out = model(**inputs)
    changed = (out != inputs["query"]).any(dim=2).sum(dim=1)
    assert changed.tolist() == [96 + 24 + 12 + 4] * 2


@pytest.mark.parametrize(
    "name, what, kind",
    [
        ("mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py", "", "DINO"),
        ("mmdet::ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py", "", "DDQDETR"),
        ("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py", "panoptic_head.pixel_decoder", PIXELS),
        ("mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py", "decode_head.pixel_decoder", PIXELS),
    ],
)
def test_stock_configs(name, what, kind):
    part = sparsify(read_config(name), {"head": 0.3}, head=True).model
    for key in what.split(".") if what else ():
        part = part[key]
    assert (part.type, part.sparsity) == (f"mmsparse.Dynamic{kind}", {"keep_ratio": 0.3})


def test_a_detector_begins_with_what_is_new_as_its_classes_say():
    """The stock detector fills every matrix of its encoder."""
    cfg = sparsify(
        read_config("mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"),
        {"head": 0.3},
        head=dict(fast_path=dict(type="LinearFastPath")),
    )
    without_pretrained(cfg.model)
    cfg.model.encoder.num_layers = cfg.model.decoder.num_layers = 1
    model = build_model(cfg)
    model.init_weights()
    assert not model.encoder.router.fast_paths["0"].linear.weight.any()
    peak = model.encoder.router.decisions["level0"].scorer.peak.weight
    assert 0 < peak.abs().max() <= peak.shape[1] ** -0.5  # torch's own


@pytest.mark.parametrize(
    "given, error, sentence",
    [
        (3, TypeError, "DynamicDINO: expected argument `sparsity` to be a dict or None, but got 3"),
        (dict(tile=4), ValueError, "DynamicDINO: argument `sparsity` has the unknown key 'tile'"),
        (dict(levels=0), ValueError, "DynamicDINO: argument `sparsity`: Expected argument `levels` to be a positive"),
        (dict(keep_ratio=1.5), ValueError, "DynamicDINO: argument `sparsity`: .*keep_ratio.*1.5"),
        (dict(keep_ratio=[0.5, 0.5]), ValueError, "one for each of the 3 places"),
        (
            dict(scorer=dict(type="AttentionScorer")),
            ValueError,
            "AttentionScorer reads attention, which a deformable encoder lacks",
        ),
    ],
)
def test_mistakes(given, error, sentence):
    layer = dict(self_attn_cfg=dict(embed_dims=8, num_heads=2), ffn_cfg=dict(embed_dims=8))
    with pytest.raises(error, match=sentence):
        DeformableEncoder(num_layers=1, layer_cfg=layer, sparsity=given, owner="DynamicDINO")


@pytest.mark.parametrize(
    "name, holder",
    [
        ("mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py", ""),
        ("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py", "panoptic_head.pixel_decoder"),
    ],
)
def test_ratios_found_are_written_to_what_holds_the_encoder(name, holder):
    cfg = sparsify(read_config(name), {"head": 0.3}, head=True)
    without_pretrained(cfg.model)
    model, part = build_model(cfg), cfg.model
    for key in holder.split(".") if holder else ():
        part = part[key]
    ratios = {decider.name: round(0.1 * number, 1) for number, decider in enumerate(find_deciders(model), 2)}
    write_ratios(cfg, model, ratios)
    assert part.sparsity.keep_ratio == list(ratios.values()) and len(ratios) == (3 if not holder else 4)
    assert {decider.name: decider.keep_ratio for decider in find_deciders(build_model(cfg))} == ratios
