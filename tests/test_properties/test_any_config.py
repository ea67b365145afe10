"""Weights of other layouts and rewritten configs, for whatever Hypothesis thinks of."""

import re

import pytest
import torch
from drawn import SEEDS, normal, one_in
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import MODELS

import mmsparse
from mmsparse.apis import budget, get_keep_ratio
from mmsparse.models.convert import hugging_face, layouts, releases
from mmsparse.models.convert.segmenters import HEADS

ALL_LAYOUTS = [*releases.LAYOUTS, *hugging_face.LAYOUTS, HEADS]
FIELDS = dict(
    i=st.integers(0, 11),
    j=st.integers(0, 3),
    p=st.sampled_from(["weight", "bias"]),
    n=st.sampled_from(["weight", "proj.bias", "reduction.weight"]),
)


def filled(template, fields):
    """A name that follows a template."""
    return re.sub(r"\{(\w)(\+1)?\}", lambda m: str(fields[m[1]] + 1 if m[2] else fields[m[1]]), template)


@st.composite
def weights(draw, layout, ours):
    """Random ones under names of ours or theirs that a layout knows, no two of which become the same."""
    rules = [rule for rule in layout.rules if rule.ours != releases.REGISTERS or layout.rules is not releases.VIT]
    state, seen = {}, set()
    if layout.family == "convnext" and ours:
        state["downsample_layers.0.0.weight"] = normal(draw(SEEDS), draw(st.sampled_from([12, 40])), 8)
    for rule in draw(st.lists(st.sampled_from(rules), min_size=1, max_size=8)):
        fields = {letter: draw(values) for letter, values in FIELDS.items()}
        name = filled(rule.ours, fields)
        shape = draw(st.sampled_from([(12,), (12, 8)]))
        if rule.change in (releases.LINEAR, releases.TIMM_LINEAR):
            shape = (12, 8) if ours else draw(st.sampled_from([(12, 8), (12, 8, 1, 1)]))
        if rule.change is releases.FLAT:
            shape = (12,) if ours else draw(st.sampled_from([(12,), (1, 1, 1, 12)]))
        if name in seen or name in state:
            continue
        seen.add(name)
        theirs = (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs
        for key in [name] if ours else [filled(template, fields) for template in theirs]:
            state[key] = normal(draw(SEEDS), *shape)
    return state


def same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize("layout", ALL_LAYOUTS, ids=lambda layout: layout.name)
@one_in(3)
@given(data=st.data())
def test_weights_that_go_out_come_back(layout, data):
    state = data.draw(weights(layout, ours=True))
    written, no_place = layouts.write(state, layout)
    assert not no_place
    again, left_out = layouts.read(written, layout)
    assert not left_out
    same(again, state)


@pytest.mark.parametrize("layout", ALL_LAYOUTS, ids=lambda layout: layout.name)
@one_in(3)
@given(data=st.data())
def test_what_is_read_is_the_same_by_any_name(layout, data):
    """Of a whole classifier's file or of its backbone's, in any order, and when it was written anew."""
    theirs = data.draw(weights(layout, ours=False))
    stem = {"downsample_layers.0.0.weight": normal(0, 12, 8)}
    if layout.family == "convnext" and not layouts.read(theirs, layout)[0].keys() & stem.keys():
        theirs |= layouts.write(stem, layout)[0]
    state, left_out = layouts.read(theirs, layout)
    assert not left_out and all(value.dim() <= 2 for value in state.values())
    shuffled = data.draw(st.permutations(list(theirs)))
    same(layouts.read({name: theirs[name] for name in shuffled}, layout)[0], state)
    same(layouts.read({layout.prefix + name: value for name, value in theirs.items()}, layout)[0], state)
    written, no_place = layouts.write(state, layout)
    assert not no_place
    same(layouts.read(written, layout)[0], state)


JOINED = [(layout, rule) for layout in ALL_LAYOUTS for rule in layout.rules if isinstance(rule.theirs, tuple)]


@given(st.sampled_from(JOINED), st.fixed_dictionaries(FIELDS), SEEDS, st.data())
def test_weights_that_are_joined_are_whole_and_in_their_order_or_refused(joined, fields, seed, data):
    layout, rule = joined
    parts = {filled(template, fields): normal(seed + place, 4, 3) for place, template in enumerate(rule.theirs)}
    (whole,) = layouts.read(parts, layout)[0].values()
    assert torch.equal(whole, torch.cat(list(parts.values())))
    del parts[data.draw(st.sampled_from(list(parts)))]
    with pytest.raises(ValueError, match="incomplete weights: there is no"):
        layouts.read(parts, layout)


@given(SEEDS, st.integers(1, 5), st.integers(1, 4))
def test_a_class_token_keeps_its_place_where_there_are_registers(seed, side, registers):
    (layout,) = (layout for layout in releases.LAYOUTS if layout.rules is releases.VIT)
    state = {
        "cls_token": normal(seed, 1, 1, 4),
        "pos_embed": normal(seed + 1, 1, side**2 + 1, 4),
        releases.REGISTERS: normal(seed + 2, 1, registers, 4),
    }
    again = releases.with_place_of_class(layouts.read(layouts.write(state, layout)[0], layout)[0])
    for name in (releases.REGISTERS, "pos_embed"):
        assert torch.equal(again[name][:, 1:], state[name][:, 1:])
    placed = [each["cls_token"] + each["pos_embed"][:, :1] for each in (again, state)]
    torch.testing.assert_close(*placed)


BACKBONES = [
    dict(type="mmpretrain.ConvNeXt", arch=dict(depths=[1, 1, 4, 1], channels=[8] * 4), gap_before_final_norm=False),
    dict(type="mmdet.ResNet", depth=18, base_channels=4),
    dict(type="mmdet.SwinTransformer", embed_dims=8, depths=[1, 1, 4], num_heads=[1, 1, 1], strides=[4, 2, 2],
         out_indices=[2]),
    dict(type="mmpretrain.VisionTransformer", img_size=32, patch_size=8, out_type="featmap",
         arch=dict(embed_dims=8, num_layers=4, num_heads=2, feedforward_channels=8)),
]  # fmt: skip
PARTS = ("backbone", "neck", "head")
TREES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda part: (
        st.lists(part, max_size=2) | st.dictionaries(st.sampled_from(["lr", "by", "of", "at"]), part, max_size=2)
    ),
    max_leaves=4,
)


@st.composite
def dense_configs(draw):
    model = dict(
        type="RetinaNet",
        backbone=draw(st.sampled_from(BACKBONES)),
        neck=dict(type="FPN", in_channels=[8, 8], out_channels=8, num_outs=2),
        bbox_head=dict(type="RetinaHead", num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1),
        test_cfg=draw(TREES),
    )
    rest = dict(schedule=draw(TREES), custom_hooks=[dict(type="EMAHook")])
    if draw(st.booleans()):
        rest["optim_wrapper"] = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=0.1))
    return dict(default_scope="mmdet", model=model, **rest)


KEPT = st.dictionaries(st.sampled_from(PARTS), st.sampled_from([0.5, 0.7, 1.0]), min_size=1)


def routed(cfg, ratios, **more):
    parts = {part: True for part in ("neck", "head") if part in ratios}
    return mmsparse.sparsify(cfg, ratios, **parts, **more)


def copied(tree, change=lambda items: items):
    """A nested config, its dicts' keys in another order."""
    if isinstance(tree, dict):
        return {key: copied(value, change) for key, value in change(list(tree.items()))}
    return [copied(value, change) for value in tree] if isinstance(tree, list) else tree


def spoil(tree):
    for value in list(tree.values() if isinstance(tree, dict) else tree):
        if isinstance(value, dict | list):
            spoil(value)
    tree.clear()


@one_in(5)
@given(dense_configs(), KEPT, st.booleans(), st.booleans())
def test_a_dense_config_stays_as_it_is(cfg, ratios, train, as_config):
    """Also where its twin is changed afterwards, and all that is not routed is in the twin."""
    before, dense = copied(cfg), Config(copied(cfg)) if as_config else cfg
    twin = routed(dense, ratios, train=train)
    assert (dense.to_dict() if as_config else dense) == before
    found = twin.to_dict()
    changed = {"neck": "neck", "head": "bbox_head", "backbone": "backbone"}
    for part, key in changed.items():
        assert (found["model"][key] == before["model"][key]) == (part not in ratios)
        assert found["model"][key].get("sparsity", {}).get("keep_ratio") == ratios.get(part)
    assert found["schedule"] == before["schedule"] and found["model"]["test_cfg"] == before["model"]["test_cfg"]
    assert found["custom_hooks"][: len(before["custom_hooks"])] == before["custom_hooks"]
    spoil(twin._cfg_dict)
    assert (dense.to_dict() if as_config else dense) == before


@one_in(5)
@given(dense_configs(), KEPT, st.randoms(use_true_random=False))
def test_the_order_of_keys_and_parts_does_not_matter(cfg, ratios, chance):
    shuffled = [copied(each, lambda items: chance.sample(items, len(items))) for each in (cfg, ratios)]
    assert routed(*shuffled).to_dict() == routed(cfg, ratios).to_dict()


@one_in(5)
@given(dense_configs(), st.permutations(PARTS), st.data())
def test_parts_are_routed_together_or_one_after_another_but_not_twice(cfg, parts, data):
    parts = parts[: data.draw(st.integers(1, 3))]
    ratios = {part: data.draw(st.sampled_from([0.5, 0.7])) for part in parts}
    found = cfg
    for part in parts:
        found = routed(found, {part: ratios[part]})
    assert found.to_dict() == routed(cfg, ratios).to_dict()
    with pytest.raises(ValueError, match="dynamic already|Supported are"):
        routed(found, {parts[0]: 0.5})


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone["type"])
@one_in(10)
@given(ratio=st.sampled_from([0.5, 0.7]), size=st.tuples(*[st.integers(48, 80)] * 2), seed=SEEDS)
def test_where_everything_is_kept_the_twin_is_the_dense_network(backbone, ratio, size, seed):
    """And nowhere else."""
    dense = dict(default_scope="mmdet", model=dict(type="RetinaNet", backbone=backbone))
    twin, stock = (MODELS.build(cfg) for cfg in (mmsparse.sparsify(dense, ratio).model.backbone, copied(backbone)))
    twin.train(False), stock.train(False)
    for number, parameter in enumerate(stock.parameters()):
        parameter.data = parameter.data + 0.1 * normal(seed + number, *parameter.shape)
    assert not twin.load_state_dict(stock.state_dict(), strict=False).unexpected_keys
    picture, kept = normal(seed, 1, 3, *size), get_keep_ratio(twin)
    with torch.no_grad():
        expected = stock(picture)
        with budget(1.0):
            for one, other in zip(twin(picture), expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(twin(picture)[-1], expected[-1], rtol=1e-3, atol=1e-3)
    assert get_keep_ratio(twin) == kept and max(kept.values()) == ratio
