"""Learning rates by name, against hand-computed numbers and the stock constructors; the freeze; resuming."""

import copy
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from mmdet.engine.optimizers import LearningRateDecayOptimizerConstructor as DetDecay
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.runner import Runner
from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor as PretrainDecay
from mmseg.engine.optimizers import LearningRateDecayOptimizerConstructor as SegDecay
from torch import nn
from torch.utils.data import Dataset

from mmsparse.engine import SparsityHook, SparsityOptimWrapperConstructor
from mmsparse.engine.optim_constructor import check_groups
from mmsparse.models import DynamicConvNeXt, DynamicSwin, DynamicViT
from mmsparse.registry import OPTIM_WRAPPER_CONSTRUCTORS

LR, WD = 1e-3, 0.05
SWIN = dict(embed_dims=32, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8), drop_path_rate=0.0, use_abs_pos_embed=True)
SWIN_KEYS = dict(
    absolute_pos_embed=dict(decay_mult=0.0), relative_position_bias_table=dict(decay_mult=0.0), norm=dict(decay_mult=0)
)


class Model(BaseModel):
    """A backbone and a head, trained the mm way."""

    def __init__(self, backbone, width):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        x = self.head(self.backbone(inputs)[-1])
        return dict(loss_toy=x.square().mean()) if mode == "loss" else x

    def get_layer_depth(self, name):
        return self.backbone.get_layer_depth(name, "backbone.")


def convnext(arch="atto", sparsity=None):
    kwargs = dict(out_indices=[3], gap_before_final_norm=False, layer_scale_init_value=1.0, drop_path_rate=0.0)
    backbone = DynamicConvNeXt(arch, **kwargs, sparsity=sparsity)
    return Model(backbone, backbone.channels[-1])


def swin(sparsity=None):
    return Model(DynamicSwin(**SWIN, out_indices=(3,), sparsity=sparsity), 256)


def vit(sparsity=None):
    arch = dict(embed_dims=32, num_layers=8, num_heads=2, feedforward_channels=64)
    return Model(DynamicViT(arch, img_size=64, patch_size=16, out_type="featmap", sparsity=sparsity), 32)


MODELS = dict(convnext=convnext, swin=swin, vit=vit)


def build(model, **paramwise):
    cfg = dict(
        constructor="mmsparse.SparsityOptimWrapperConstructor",
        optimizer=dict(type="AdamW", lr=LR, weight_decay=WD),
        paramwise_cfg=paramwise,
    )
    return build_optim_wrapper(model, cfg)


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


# ---- the frozen phase, in real trainings ----


class Pictures(Dataset):
    metainfo: dict = {}

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return dict(inputs=torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(index)))


class ScaledCpuOptimWrapper(OptimWrapper):
    """AmpOptimWrapper, which mmengine refuses to build without a GPU."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)

    @contextmanager
    def optim_context(self, model):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield

    def backward(self, loss, **kwargs):
        self.scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()


class Watch(Hook):
    """Weights of a backbone, a new and a head parameter after each iteration, and the rates that logs see."""

    NAMES = ("backbone.stages.0.0.pointwise_conv1.weight", "backbone.router.decisions.2_1.scorer.embed.1.weight",
             "head.weight")  # fmt: skip

    def __init__(self):
        self.weights, self.rates = {}, {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        torch.manual_seed(runner.iter)  # what a resumed run draws, too
        self.rates[runner.iter] = [group["lr"] for group in runner.optim_wrapper.optimizer.param_groups]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        parameters = dict(runner.model.named_parameters())
        self.weights[runner.iter] = [parameters[name].detach().clone() for name in self.NAMES]


SCHEDULE = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=3),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=3, end=8),
]


def train(work_dir, amp=False, by_epoch=False, resume=None, **paramwise):
    torch.manual_seed(0)
    model, watch = convnext(dict(depths=[1, 1, 4, 1], channels=[8, 16, 32, 64]), sparsity={}), Watch()
    loop = dict(type="EpochBasedTrainLoop", max_epochs=4) if by_epoch else dict(type="IterBasedTrainLoop", max_iters=8)
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=Pictures(4 if by_epoch else 16),
        sampler=dict(type="DefaultSampler", shuffle=False),
        collate_fn=dict(type="default_collate"),
    )
    runner = Runner(
        model,
        str(work_dir),
        train_dataloader=loader,
        train_cfg=loop,
        optim_wrapper=dict(
            type=ScaledCpuOptimWrapper if amp else OptimWrapper,
            constructor="mmsparse.SparsityOptimWrapperConstructor",
            optimizer=dict(type="AdamW", lr=LR, weight_decay=WD),
            paramwise_cfg=paramwise,
        ),
        param_scheduler=copy.deepcopy(SCHEDULE),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=2, by_epoch=by_epoch)),
        custom_hooks=[SparsityHook(), watch],
        resume=resume is not None,
        load_from=None if resume is None else str(resume),
        default_scope="mmengine",
        experiment_name=f"{work_dir}-{resume}",
    )
    runner.train()
    return watch, runner


def moved(watch, part):
    """Iterations after which a parameter differs from what it was one iteration before."""
    steps = sorted(watch.weights)
    return [b for a, b in pairwise(steps) if not watch.weights[a][part].equal(watch.weights[b][part])]


@pytest.mark.parametrize("amp", [False, True])
def test_the_backbone_rests_and_then_moves(tmp_path, amp):
    watch, runner = train(tmp_path, amp=amp, freeze_iters=4)
    assert moved(watch, 0) == [4, 5, 6, 7]
    assert moved(watch, 1) == moved(watch, 2) == [1, 2, 3, 4, 5, 6, 7]
    state = runner.optim_wrapper.optimizer.state
    steps = {int(state[p]["step"]) for group in runner.optim_wrapper.optimizer.param_groups for p in group["params"]}
    assert steps == {8}  # moments were collected from the beginning


def test_schedulers_and_logs_see_the_true_rates(tmp_path):
    frozen, _ = train(tmp_path / "frozen", freeze_iters=4)
    free, _ = train(tmp_path / "free")
    assert [rates[0] for rates in frozen.rates.values()] == [rates[0] for rates in free.rates.values()]
    assert frozen.rates[0][0] == pytest.approx(LR * 0.1) and frozen.rates[3][0] == pytest.approx(LR)


def test_freeze_by_epochs(tmp_path):
    watch, _ = train(tmp_path, by_epoch=True, freeze_epochs=2)  # two iterations an epoch
    assert moved(watch, 0) == [4, 5, 6, 7]


@pytest.mark.parametrize("at", [2, 6])
def test_resuming_inside_and_after_the_frozen_phase(tmp_path, at):
    straight, _ = train(tmp_path, freeze_iters=4, backbone_mult=0.2)
    resumed, _ = train(tmp_path / "again", freeze_iters=4, backbone_mult=0.2, resume=tmp_path / f"iter_{at}.pth")
    assert sorted(resumed.weights) == list(range(at, 8))
    for step, weights in resumed.weights.items():
        assert resumed.rates[step] == straight.rates[step]
        for mine, theirs in zip(weights, straight.weights[step], strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    "freeze, by_epoch, sentence",
    [
        (
            dict(freeze_epochs=5),
            True,
            "`freeze_epochs`: 5 would freeze the backbone for the whole training of 4 epochs",
        ),
        (dict(freeze_iters=8), False, "`freeze_iters`: 8 would freeze the backbone for the whole training of 8 iters"),
        (dict(freeze_epochs=5), False, "`freeze_epochs`: got 5, but this training counts iterations .*freeze_iters"),
    ],
)
def test_a_freeze_without_end_is_refused(tmp_path, freeze, by_epoch, sentence):
    with pytest.raises(ValueError, match=sentence):
        train(tmp_path, by_epoch=by_epoch, **freeze)


EPOCHS, ITERS = dict(type="EpochBasedTrainLoop", max_epochs=4), dict(type="IterBasedTrainLoop", max_iters=8)


@pytest.mark.parametrize(
    "freeze, train_cfg, sentence",
    [
        (
            dict(freeze_epochs=4),
            EPOCHS,
            "`freeze_epochs`: 4 would freeze .* whole training of 4 epochs. Give a smaller",
        ),
        (dict(freeze_iters=8), ITERS, "`freeze_iters`: 8 would freeze .* whole training of 8 iters. Give a smaller"),
        (dict(freeze_epochs=1), ITERS, r"`freeze_epochs`: got 1, but this training counts iterations \(train_cfg=.*8"),
    ],
)
def test_a_freeze_without_end_is_seen_in_the_config(freeze, train_cfg, sentence):
    wrapper = dict(constructor="mmsparse.SparsityOptimWrapperConstructor", paramwise_cfg=freeze)
    with pytest.raises(ValueError, match=sentence):
        check_groups(dict(optim_wrapper=wrapper, train_cfg=train_cfg))
    check_groups(dict(optim_wrapper=dict(wrapper, constructor="MyConstructor"), train_cfg=train_cfg))


@pytest.mark.parametrize("freeze, train_cfg", [(dict(freeze_epochs=3), EPOCHS), (dict(freeze_iters=7), ITERS)])
def test_a_freeze_that_ends_is_fine(freeze, train_cfg):
    wrapper = dict(constructor="SparsityOptimWrapperConstructor", paramwise_cfg=freeze)
    check_groups(dict(optim_wrapper=wrapper, train_cfg=train_cfg))
    check_groups(dict(optim_wrapper=dict(wrapper, paramwise_cfg=dict(freeze_iters=9)), train_cfg=EPOCHS))


def test_a_freeze_needs_a_runner(monkeypatch):
    wrapper = build(convnext(sparsity={}), freeze_iters=2)
    monkeypatch.setattr(wrapper, "message_hub", MessageHub("fresh"))
    with pytest.raises(ValueError, match="`freeze_iters`.*Runner"):
        wrapper.step()
