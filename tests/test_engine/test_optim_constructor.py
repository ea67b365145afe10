"""Learning rates by name, against hand-computed numbers and the stock constructors."""

import pytest
from mmdet.engine.optimizers import LearningRateDecayOptimizerConstructor as DetDecay
from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor as PretrainDecay
from mmseg.engine.optimizers import LearningRateDecayOptimizerConstructor as SegDecay
from optimized import LR, WD, Model, build, convnext, swin, vit
from torch import nn

from mmsparse.engine import SparsityOptimWrapperConstructor
from mmsparse.registry import OPTIM_WRAPPER_CONSTRUCTORS

SWIN_KEYS = dict(
    absolute_pos_embed=dict(decay_mult=0.0), relative_position_bias_table=dict(decay_mult=0.0), norm=dict(decay_mult=0)
)

MODELS = dict(convnext=convnext, swin=swin, vit=vit)


def of_each(wrapper, key="lr"):
    """A setting of the groups, by parameter name."""
    return {name: group[key] for group in wrapper.optimizer.param_groups for name in group["param_names"]}


def stock(constructor, model, **paramwise):
    wrapper = constructor(dict(optimizer=dict(type="AdamW", lr=LR, weight_decay=WD)), paramwise)(model)
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        key: {names[id(p)]: group[key] for group in wrapper.optimizer.param_groups for p in group["params"]}
        for key in ("lr", "weight_decay")
    }


def test_it_is_found_from_any_scope_and_every_parameter_is_there_once():
    assert OPTIM_WRAPPER_CONSTRUCTORS.get("SparsityOptimWrapperConstructor") is SparsityOptimWrapperConstructor
    model = convnext(sparsity={})
    wrapper = build(model)
    held = [p for group in wrapper.optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(map(id, held))) == len(list(model.parameters()))
    assert set(of_each(wrapper)) == {name for name, _ in model.named_parameters()}
    for group in wrapper.optimizer.param_groups:
        parameters = dict(model.named_parameters())
        assert all(p is parameters[name] for p, name in zip(group["params"], group["param_names"], strict=True))


@pytest.mark.parametrize("family", MODELS)
def test_new_backbone_and_head(family):
    """The paper's groups: 1.0 for what is new, a fraction for the backbone; nothing new that is flat decays."""
    model = MODELS[family](sparsity={})
    wrapper = build(model, backbone_mult=0.2, new_mult=0.5)
    lr, decay = of_each(wrapper), of_each(wrapper, "weight_decay")
    for name, parameter in model.named_parameters():
        new = ".router." in name
        part = 0.5 if new else 0.2 if name.startswith("backbone.") else 1.0
        assert lr[name] == pytest.approx(LR * part), name
        assert decay[name] == (0.0 if new and parameter.dim() == 1 else WD), name
    assert len(wrapper.optimizer.param_groups) == 4  # backbone, new, new and flat, head


def test_a_classifier_is_pretrained_as_a_whole():
    lr = of_each(build(convnext(sparsity={}), backbone_mult=0.01, pretrained=("backbone", "head")))
    assert lr["head.weight"] == lr["backbone.stages.0.0.gamma"] == pytest.approx(LR * 0.01)
    assert lr["backbone.router.fast_paths.2_1.linear.weight"] == pytest.approx(LR)


def test_custom_keys_of_stock_configs():
    """What Swin configs name keeps its meaning; 'head' of SETR configs must not catch a scorer's head."""
    model = swin(sparsity={})
    wrapper = build(model, custom_keys={**SWIN_KEYS, "head": dict(lr_mult=10.0)}, backbone_mult=0.1)
    lr, decay = of_each(wrapper), of_each(wrapper, "weight_decay")
    assert lr["head.weight"] == pytest.approx(LR * 10)
    assert lr["backbone.router.decisions.2_1.scorer.head.0.weight"] == pytest.approx(LR)
    assert decay["backbone.router.decisions.2_1.scorer.head.0.weight"] == WD
    assert decay["backbone.absolute_pos_embed"] == 0 and lr["backbone.absolute_pos_embed"] == pytest.approx(LR * 0.1)
    assert decay["backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table"] == 0
    assert decay["backbone.stages.0.blocks.0.norm1.weight"] == 0
    assert decay["backbone.stages.0.blocks.0.attn.w_msa.qkv.weight"] == WD
    assert len(wrapper.optimizer.param_groups) == 5  # backbone and new: with and without decay; head


def test_custom_keys_that_name_new_parts_and_zero_leaves_out():
    model = swin(sparsity={})
    keys = {"router.fast_paths": dict(lr_mult=0.1, decay_mult=2.0), "absolute_pos_embed": dict(lr_mult=0.0)}
    wrapper = build(model, custom_keys=keys, new_mult=0.5)
    lr, decay = of_each(wrapper), of_each(wrapper, "weight_decay")
    assert lr["backbone.router.fast_paths.2_1.linear.weight"] == pytest.approx(LR * 0.05)
    assert decay["backbone.router.fast_paths.2_1.linear.weight"] == pytest.approx(WD * 2)
    assert decay["backbone.router.fast_paths.2_1.linear.bias"] == 0
    assert lr["backbone.router.decisions.2_1.scorer.embed.1.weight"] == pytest.approx(LR * 0.5)
    assert "backbone.absolute_pos_embed" not in lr and len(lr) == len(list(model.parameters())) - 1


def test_decay_multipliers_of_stock_configs():
    decay = of_each(build(swin(sparsity={}), norm_decay_mult=0.0, bias_decay_mult=0.5), "weight_decay")
    assert decay["backbone.norm3.weight"] == 0
    assert decay["head.bias"] == pytest.approx(WD * 0.5)
    assert decay["backbone.router.decisions.2_1.scorer.head.0.bias"] == 0
    assert decay["head.weight"] == WD


@pytest.mark.usefixtures("unfilled")
@pytest.mark.parametrize("constructor", [DetDecay, SegDecay])
@pytest.mark.parametrize("decay_type", ["layer_wise", "stage_wise"])
@pytest.mark.parametrize("arch, num_layers", [("atto", 6), ("small", 12)])
def test_convnext_equals_the_stock_constructors(constructor, decay_type, arch, num_layers):
    paramwise = dict(decay_rate=0.8, decay_type=decay_type, num_layers=num_layers)
    expected = stock(constructor, convnext(arch), **paramwise)
    model = convnext(arch, sparsity={})
    wrapper = build(model, **paramwise)
    for key, values in expected.items():
        found = of_each(wrapper, key)
        dense = {name: value for name, value in found.items() if ".router." not in name}
        assert dense == pytest.approx(values)
    lr = of_each(wrapper)
    assert {lr[name] for name in lr if ".router." in name} == {LR}
    assert len(set(lr.values())) > 4 and len(wrapper.optimizer.param_groups) <= 2 * (num_layers + 3)


@pytest.mark.parametrize("family", MODELS)
def test_any_family_equals_mmpretrains_constructor(family):
    """mmpretrain asks the model for depths, so its constructor serves every backbone that knows them."""
    paramwise = dict(layer_decay_rate=0.7, norm_decay_mult=0.0, flat_decay_mult=0.0, custom_keys={".gamma": {}})
    expected = stock(PretrainDecay, MODELS[family](), **paramwise)
    wrapper = build(MODELS[family](sparsity={}), **paramwise)
    for key, values in expected.items():
        found = of_each(wrapper, key)
        assert {name: found[name] for name in values} == pytest.approx(values)


def test_layer_wise_numbers_of_swin():
    model = swin(sparsity={})
    lr = of_each(build(model, decay_rate=0.5, backbone_mult=0.1))
    depth = 10 + 2  # blocks, stem, head
    assert lr["backbone.patch_embed.projection.weight"] == pytest.approx(LR * 0.1 * 0.5 ** (depth - 1))
    assert lr["backbone.stages.0.blocks.1.norm1.weight"] == pytest.approx(LR * 0.1 * 0.5 ** (depth - 1 - 2))
    assert lr["backbone.stages.3.blocks.1.norm1.weight"] == pytest.approx(LR * 0.1 * 0.5)
    assert lr["backbone.norm3.weight"] == pytest.approx(LR * 0.1)
    assert lr["head.weight"] == lr["backbone.router.fast_paths.2_1.linear.weight"] == pytest.approx(LR)


def test_layer_wise_numbers_of_vit():
    """As the paper's DeiT: a hundredth for what is pretrained; class token and positions out of the optimizer."""
    keys = {".cls_token": dict(lr_mult=0.0), ".pos_embed": dict(lr_mult=0.0)}
    wrapper = build(vit(sparsity={}), layer_decay_rate=0.5, backbone_mult=0.01, custom_keys=keys)
    lr, decay = of_each(wrapper), of_each(wrapper, "weight_decay")
    assert not {"backbone.cls_token", "backbone.pos_embed"} & set(lr)
    assert lr["backbone.patch_embed.projection.weight"] == pytest.approx(LR * 0.01 * 0.5**9)
    for i in range(8):
        assert lr[f"backbone.layers.{i}.attn.qkv.weight"] == pytest.approx(LR * 0.01 * 0.5 ** (8 - i))
    assert lr["backbone.ln1.weight"] == pytest.approx(LR * 0.01)
    new = [name for name in lr if ".router." in name]
    assert new and {lr[name] for name in new} == {LR}
    assert decay["backbone.router.decisions.0_2.scorer.head.0.weight"] == WD
    assert decay["backbone.router.decisions.0_2.scorer.head.0.bias"] == 0


def test_stage_wise_numbers_of_swin():
    lr = of_each(build(swin(sparsity={}), decay_rate=0.5, decay_type="stage_wise"))
    expected = {"patch_embed.projection.weight": 5, "stages.0.downsample.reduction.weight": 4, "norm3.weight": 0}
    expected.update({f"stages.{i}.blocks.1.norm1.weight": 4 - i for i in range(4)})
    for name, power in expected.items():
        assert lr[f"backbone.{name}"] == pytest.approx(LR * 0.5**power), name


def test_shared_parameters_are_stepped_once():
    model = convnext(sparsity={})
    model.twin = model.head
    held = [p for group in build(model).optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(map(id, held)))


@pytest.mark.parametrize(
    "paramwise, message",
    [
        (dict(backbone_lr=0.1), "`paramwise_cfg`.*'backbone_lr'.*backbone_mult"),
        (dict(backbone_mult=-1), "`backbone_mult` to be a number >= 0, but got -1"),
        (dict(new_mult="1"), "`new_mult` to be a number >= 0, but got '1'"),
        (dict(freeze_epochs=2, freeze_iters=3), "`freeze_epochs` or `freeze_iters`"),
        (dict(freeze_iters=1.5), "`freeze_iters` to be a whole number >= 0, but got 1.5"),
        (dict(decay_rate=1.5), r"`decay_rate` to be in \(0, 1\], but got 1.5"),
        (dict(decay_rate=0.9, layer_decay_rate=0.9), "`decay_rate` or `layer_decay_rate`"),
        (dict(decay_rate=0.9, decay_type="block_wise"), "`decay_type`.*'block_wise'"),
        (dict(decay_rate=0.9, num_layers=12), "`num_layers`.*12.*6"),
        (dict(decay_type="layer_wise"), "`decay_type`.*without `decay_rate`"),
        (dict(pretrained=("neck",)), "`pretrained`.*'neck'"),
        (dict(pretrained="backbone"), "`pretrained`.*'backbone'"),
        (dict(custom_keys={"norm": dict(decay=0)}), "`custom_keys`.*'norm'.*'decay'"),
    ],
)
def test_mistakes_are_named(paramwise, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build(convnext(sparsity={}), **paramwise)


def test_a_backbone_without_depths_or_stages_is_refused():
    with pytest.raises(ValueError, match="'stage_wise' needs a backbone with stages, but got DynamicViT"):
        build(vit(sparsity={}), decay_rate=0.9, decay_type="stage_wise")
    with pytest.raises(ValueError, match="`decay_rate`.*Conv2d.*get_layer_depth"):
        build(Model(nn.Conv2d(3, 4, 1), 4), decay_rate=0.9)
    with pytest.raises(ValueError, match="`lr`"):
        SparsityOptimWrapperConstructor(dict(optimizer=dict(type="AdamW")))
