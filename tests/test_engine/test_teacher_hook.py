"""The teacher's losses against the same numbers made by hand; what it must not touch; resuming; real trainings."""

import copy
import json
import math
import os

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmpretrain.models import ConvNeXt, GlobalAveragePooling, ImageClassifier, LinearClsHead, VisionTransformerClsHead
from mmpretrain.structures import DataSample
from scenes import ROOT, at
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from mmsparse.apis import find_decisions, pop_aux, record_selections, set_keep_ratio
from mmsparse.engine import SparsityHook, TeacherHook
from mmsparse.engine.launch import read_config
from mmsparse.models import DynamicConvNeXt, DynamicSwin, DynamicViT
from mmsparse.sparsity.losses import feature_distillation, logit_distillation

MICRO = dict(depths=[1, 1, 4, 1], channels=[8, 16, 32, 64])
CONVNEXT = dict(arch=MICRO, gap_before_final_norm=False, layer_scale_init_value=1.0, out_indices=[0, 1, 2, 3])
SWIN = dict(embed_dims=16, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8), drop_path_rate=0.0)
DEMO = str(ROOT / "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py")
DENSE_DEMO = str(ROOT / "configs/demo/atss_convnext-mini_scenes.py")


class Toy(BaseModel):
    """The smallest model that trains the mm way."""

    def __init__(self, backbone, neck=None):
        super().__init__()
        self.backbone = backbone
        if neck is not None:
            self.neck = neck

    def forward(self, inputs, data_samples=None, mode="tensor"):
        maps = self.backbone(inputs)
        if hasattr(self, "neck"):
            maps = self.neck(maps)
        return dict(loss_toy=maps[-1].square().mean()) if mode == "loss" else maps


class Neck(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, 4, 1) for c in MICRO["channels"])

    def forward(self, maps):
        return tuple(conv(x) for conv, x in zip(self.convs, maps, strict=True))


class BatchNormNeck(nn.BatchNorm2d):
    def __init__(self):
        super().__init__(64)

    def forward(self, maps):
        return (super().forward(maps[-1]),)


def toy(neck=None, **kwargs):
    return Toy(DynamicConvNeXt(**{**CONVNEXT, "sparsity": dict(keep_ratio=0.7), **kwargs}), neck).train()


def swin_toy(**sparsity):
    return Toy(DynamicSwin(**SWIN, sparsity=dict(keep_ratio=0.7, **sparsity))).train()


def classifier(backbone, head, neck=None):
    model = ImageClassifier(backbone=backbone, neck=neck, head=head, data_preprocessor=dict(mean=[0] * 3, std=[1] * 3))
    return model.train()


def cnn_classifier(**kwargs):
    backbone = DynamicConvNeXt(MICRO, layer_scale_init_value=1.0, sparsity=dict(keep_ratio=0.7), **kwargs)
    return classifier(backbone, LinearClsHead(5, 64))


def vit(cumulative, **kwargs):
    arch = dict(embed_dims=32, num_layers=8, num_heads=2, feedforward_channels=64)
    sparsity = dict(keep_ratio=0.6, cumulative=cumulative, selector=dict(type="GumbelSelector"))
    return DynamicViT(arch, img_size=64, patch_size=16, sparsity=sparsity, **kwargs)


def shaken(model):
    """A student that has moved away from its teacher."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def labels(count):
    return [DataSample().set_gt_label(i) for i in range(count)]


def frozen_copy(model):
    twin = copy.deepcopy(model)
    for module in twin.modules():
        module.training = False
    for decision in find_decisions(twin):
        decision.keep_ratio = 1.0
    return twin


# ---- values ----


def test_losses_by_hand():
    student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    error = (student - teacher) ** 2
    torch.testing.assert_close(feature_distillation(student, teacher), error.mean())
    kept = (error[0, 0] + error[0, 2] + error[1, 2]).sum() / (3 * 4)
    torch.testing.assert_close(feature_distillation(student, teacher, mask), kept)
    assert feature_distillation(student.requires_grad_(), teacher, torch.zeros_like(mask)).item() == 0
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    expected = (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)) / 2
    assert logit_distillation(q.log(), p.log()).item() == pytest.approx(expected)
    assert logit_distillation(q.log().bfloat16(), p.log()).dtype == torch.float32


@pytest.mark.parametrize("make", [toy, swin_toy])
def test_feature_loss_of_a_detector_is_that_of_the_last_map(make):
    model = make()
    hook, x = TeacherHook(feature_weight=2.0), torch.randn(2, 3, 64, 96)
    twin = frozen_copy(model)
    hook.attach(model)
    shaken(model)
    maps = []
    model.backbone.register_forward_hook(lambda m, args, out: maps.append(out) if m.training else None)
    losses = model(x, mode="loss")
    with torch.no_grad():
        expected = 2.0 * (maps[0][-1] - twin.backbone(x)[-1]).square().mean()
    assert set(losses) == {"loss_toy", "loss_distill_feat"} and expected > 1e-4
    torch.testing.assert_close(losses["loss_distill_feat"], expected)
    assert losses["loss_distill_feat"].requires_grad


def test_levels_and_module():
    x = torch.randn(1, 3, 64, 64)
    for hook, read in (
        (TeacherHook(levels=(0, 2)), lambda m: [m.backbone(x)[i] for i in (0, 2)]),
        (TeacherHook(levels=(1,), module="neck"), lambda m: [m.neck(m.backbone(x))[1]]),
        (TeacherHook(module="neck.convs.3"), lambda m: [m.neck(m.backbone(x))[3]]),
    ):
        model = toy(Neck(), sparsity=None)
        twin = frozen_copy(model)
        hook.attach(model)
        shaken(model)
        with torch.no_grad():
            pairs = list(zip(read(model), read(twin), strict=True))
            expected = 0.5 * sum((a - b).square().mean() for a, b in pairs) / len(pairs)
            torch.testing.assert_close(model(x, mode="loss")["loss_distill_feat"], expected)


def test_classifier_that_pools_compares_all_positions_and_logits():
    model = cnn_classifier()
    twin = frozen_copy(model)
    hook, x = TeacherHook(), torch.randn(2, 3, 64, 64)
    hook.attach(model)
    shaken(model)
    maps, logits = [], []
    model.backbone.stages[3][-1].register_forward_hook(lambda m, a, out: maps.append(out) if m.training else None)
    model.head.register_forward_hook(lambda m, a, out: logits.append(out) if m.training else None)
    losses = model(x, labels(2), mode="loss")
    with torch.no_grad():
        twin.backbone.gap_before_final_norm = False
        target = twin.backbone(x)[-1]
        twin.backbone.gap_before_final_norm = True
        feature = 0.5 * (model.backbone.norm3(maps[0]) - target).square().mean()
        mine, theirs = logits[0].log_softmax(1), twin(x).log_softmax(1)
        logit = 0.5 * (theirs.exp() * (theirs - mine)).sum() / 2
    assert target.shape == (2, 64, 2, 2)
    assert set(losses) == {"loss", "loss_distill_feat", "loss_distill_cls"}
    torch.testing.assert_close(losses["loss_distill_feat"], feature)
    torch.testing.assert_close(losses["loss_distill_cls"], logit)
    total, logged = model.parse_losses(losses)
    torch.testing.assert_close(total, sum(losses.values()))
    assert "loss_distill_cls" in logged


def test_classifier_with_a_pooling_neck():
    model = classifier(DynamicSwin(**SWIN, sparsity={}), LinearClsHead(5, 128), GlobalAveragePooling())
    TeacherHook().attach(model)
    assert model(torch.randn(2, 3, 64, 64), labels(2), mode="loss")["loss_distill_cls"] >= 0


@pytest.mark.parametrize("cumulative", [True, False])
@pytest.mark.parametrize("out_type", ["cls_token", "featmap"])
def test_vit_compares_what_survives(cumulative, out_type):
    """Tokens after the last norm; without the class token, and where tokens are dropped, the last selection's."""
    if out_type == "cls_token":
        model = classifier(vit(cumulative), VisionTransformerClsHead(5, 32))
    else:
        model = Toy(vit(cumulative, out_type="featmap")).train()
    twin = frozen_copy(model)
    hook, x = TeacherHook(), torch.randn(3, 3, 64, 64)
    hook.attach(model)
    shaken(model)
    tokens = []
    for m in (model, twin):
        m.backbone.ln1.register_forward_hook(
            lambda m, a, out: tokens.append(out[:, 1:]) if torch.is_grad_enabled() else None
        )
    with record_selections(model) as taken:
        losses = model(x, labels(3), mode="loss")
    twin.backbone(x)
    error = (tokens[0] - tokens[1]).square()
    mask = taken[-1][1].keep_mask
    assert len(taken) == 3 and 0 < mask.float().mean() < 1
    expected = error[mask].mean() if cumulative else error.mean()
    torch.testing.assert_close(losses["loss_distill_feat"], 0.5 * expected)
    assert ("loss_distill_cls" in losses) == (out_type == "cls_token")


# ---- self-teaching ----


@pytest.mark.parametrize("make", [toy, swin_toy, cnn_classifier])
def test_self_teacher_agrees_with_itself_at_keep_ratio_one(make):
    model = make()
    set_keep_ratio(model, 1.0)
    hook = TeacherHook("self")
    hook.attach(model)
    losses = model(torch.randn(2, 3, 64, 64), labels(2), mode="loss")
    assert losses["loss_distill_feat"].item() < 1e-9
    if make is cnn_classifier:
        assert abs(losses["loss_distill_cls"].item()) < 1e-6
    dense_model = toy(sparsity=None)
    hook.attach(dense_model)
    assert dense_model(torch.randn(2, 3, 64, 64), mode="loss")["loss_distill_feat"].item() == 0.0


def test_self_teacher_is_the_present_student():
    model, x = shaken(toy()), torch.randn(2, 3, 64, 64)
    TeacherHook("self", feature_weight=1.0).attach(model)
    shaken(model)
    with torch.no_grad():
        target = frozen_copy(model).backbone(x)[-1]
    maps = []
    model.backbone.register_forward_hook(lambda m, args, out: maps.append(out[-1]) if m.training else None)
    found = model(x, mode="loss")["loss_distill_feat"]
    torch.testing.assert_close(found, (maps[0] - target).square().mean())
    assert found > 1e-6


@pytest.mark.parametrize("teacher", ["self", "twin"])
def test_nothing_of_the_student_is_disturbed(teacher):
    """Flags, random draws, what waits for SparsityHook, running statistics, budgets, keys, parameters."""
    backbone = dict(
        sparsity=dict(keep_ratio=0.7, selector=dict(type="ThresholdSelector")), drop_path_rate=0.3, frozen_stages=1
    )
    model = toy(BatchNormNeck(), **backbone)
    other = copy.deepcopy(model)
    keys, flags = list(model.state_dict()), [m.training for m in model.modules()]
    trainable = [p.requires_grad for p in model.parameters()]
    hook = TeacherHook(teacher, module="neck")
    hook.attach(model)
    x, results = torch.randn(2, 3, 64, 64), []
    for m in (model, other):
        torch.manual_seed(1)
        loss = m(x, mode="loss")["loss_toy"]
        loss.backward()
        results.append((loss, torch.rand(1), [p.grad for p in m.parameters()], list(m.buffers())))
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=0)
    assert list(model.state_dict()) == keys and [m.training for m in model.modules()] == flags
    assert [p.requires_grad for p in model.parameters()] == trainable
    assert len(pop_aux(model)) == len(pop_aux(other)) == 3
    assert all(d.keep_ratio < 1 for d in find_decisions(model))
    if teacher == "twin":
        own = set(map(id, model.parameters()))
        assert not any(id(p) in own or p.requires_grad or p.grad is not None for p in hook.parts.parameters())


# ---- company ----


@pytest.mark.parametrize("teacher_first", [True, False])
def test_both_hooks_in_any_order(teacher_first):
    model, alone = cnn_classifier(), None
    x = torch.randn(2, 3, 64, 64)
    alone = copy.deepcopy(model)
    TeacherHook("self").attach(alone)
    torch.manual_seed(3)
    expected = alone(x, labels(2), mode="loss")
    hooks = [TeacherHook("self"), SparsityHook()]
    for hook in hooks if teacher_first else reversed(hooks):
        hook.attach(model)
    for _ in range(2):  # the second pass would raise if gates were left behind
        torch.manual_seed(3)
        losses = model(x, labels(2), mode="loss")
    assert {"loss", "loss_sparsity", "loss_distill_feat", "loss_distill_cls", "keep_ratio/s2b1"} <= set(losses)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    assert isinstance(model(x, mode="tensor"), torch.Tensor)


def test_attaching_twice_adds_once():
    model, hook = toy(), TeacherHook("self")
    hook.attach(model)
    before = len(model._forward_hooks), len(model.backbone._forward_hooks)
    hook.attach(model)
    assert before == (len(model._forward_hooks), len(model.backbone._forward_hooks)) == (1, 1)


@pytest.mark.parametrize("teacher", ["twin", "self"])
def test_checkpointing_changes_nothing(teacher):
    results = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = cnn_classifier(with_cp=with_cp)
        TeacherHook(teacher).attach(model)
        SparsityHook().attach(model)
        torch.manual_seed(1)
        shaken(model)
        losses = model(torch.randn(2, 3, 64, 64).requires_grad_(), labels(2), mode="loss")
        model.parse_losses(losses)[0].backward()
        results.append((losses, [p.grad for p in model.parameters()]))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("teacher", ["twin", "self"])
def test_autocast(teacher):
    model = cnn_classifier()
    TeacherHook(teacher).attach(model)
    SparsityHook().attach(model)
    shaken(model)
    x, grads = torch.randn(2, 3, 64, 64), []
    for weight in (torch.bfloat16, None):
        model.zero_grad()
        torch.manual_seed(4)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=weight is not None):
            losses = model(x, labels(2), mode="loss")
        assert losses["loss_distill_feat"].dtype == losses["loss_distill_cls"].dtype == torch.float32
        model.parse_losses(losses)[0].backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert grads[0].isfinite().all() and F.cosine_similarity(*grads, dim=0) > 0.9


@pytest.mark.parametrize("teacher", ["twin", "self"])
def test_distributed_wrapper(teacher, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = cnn_classifier()
        plain = copy.deepcopy(model)
        grads = []
        for m in (model, plain):
            TeacherHook(teacher).attach(m)
            SparsityHook().attach(m)
            torch.manual_seed(5)
            wrapped = DistributedDataParallel(m, find_unused_parameters=True) if m is model else m
            losses = wrapped(torch.ones(2, 3, 64, 64), labels(2), mode="loss")
            m.parse_losses(losses)[0].backward()
            grads.append([p.grad for p in m.parameters()])
        torch.testing.assert_close(*grads)
    finally:
        torch.distributed.destroy_process_group()


# ---- other teachers ----


def test_another_network_with_its_checkpoint(tmp_path):
    torch.manual_seed(7)
    stock = dict(type="mmpretrain.ConvNeXt", **CONVNEXT)
    weights = {f"backbone.{k}": v for k, v in ConvNeXt(**CONVNEXT).state_dict().items()}
    torch.save({"state_dict": weights}, tmp_path / "dense.pth")
    model, x = toy(), torch.randn(1, 3, 64, 64)
    network = dict(type="mmpretrain.ImageClassifier", backbone=stock)
    found = []
    for teacher in (network, "twin"):
        hook = TeacherHook(copy.deepcopy(teacher), checkpoint=str(tmp_path / "dense.pth"))
        hook.attach(model)
        torch.manual_seed(0)
        found.append(model(x, mode="loss")["loss_distill_feat"].item())
        pop_aux(model)
    assert found[0] == pytest.approx(found[1]) and found[0] > 1e-3
    assert list(hook.parts) == ["backbone"]


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(teacher="none.py", checkpoint="x.pth"), "`teacher`.*'none.py'"),
        (dict(teacher=3), "`teacher`.*got 3"),
        (dict(teacher=DENSE_DEMO), "has no weights; name its `checkpoint`"),
        (dict(teacher=dict(type="ATSS")), "'ATSS' has no weights"),
        (dict(checkpoint="none.pth"), "`checkpoint` to be a file, but got 'none.pth'"),
        (dict(teacher="self", checkpoint="none.pth"), "`checkpoint`.*teacher='self'"),
        (dict(feature_weight=-1), "`feature_weight`"),
        (dict(levels=()), "`levels`"),
        (dict(levels=1), "`levels`"),
        (dict(module="bbox_head"), "`module`.*'bbox_head'"),
    ],
)
def test_mistakes_are_named(kwargs, message):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        TeacherHook(**kwargs)


@pytest.mark.parametrize(
    "kwargs, make, message",
    [
        (dict(levels=(4,)), toy, r"`levels`: got \(4,\), but DynamicConvNeXt gives 4"),
        (dict(module="backbone.nothing"), toy, "`module`.*'backbone.nothing'"),
        (dict(module="backbone.stages"), toy, "`module`.*ModuleList is not run"),
        (dict(module="neck"), toy, "Toy has no 'neck'"),
        (dict(feature_weight=0), toy, "`feature_weight`.*no logits"),
        (dict(), lambda: nn.Linear(1, 1), "Linear has no `backbone`"),
        (
            dict(),
            lambda: cnn_classifier_routed_to_the_end(),
            r"stage 3, block 0\) is routed.*gap_before_final_norm=False",
        ),
    ],
)
def test_students_that_cannot_be_taught(kwargs, make, message):
    with pytest.raises(ValueError, match=message):
        TeacherHook(**kwargs).attach(make())


def cnn_classifier_routed_to_the_end():
    backbone = DynamicConvNeXt(MICRO, sparsity=dict(places=[(3, 0)], keep_ratio=[0.5]))
    return classifier(backbone, LinearClsHead(5, 64))


def test_a_teacher_that_does_not_fit_is_refused_with_both_shapes(tmp_path):
    wide = {**CONVNEXT, "arch": dict(depths=[1, 1, 1, 1], channels=[8, 16, 32, 96])}
    weights = {f"backbone.{k}": v for k, v in ConvNeXt(**wide).state_dict().items()}
    torch.save(weights, tmp_path / "wide.pth")
    network = dict(type="mmpretrain.ImageClassifier", backbone=dict(type="mmpretrain.ConvNeXt", **wide))
    with pytest.raises(ValueError, match="16 positions x 64 channels, the teacher 16 positions x 96 channels"):
        TeacherHook(network, checkpoint=str(tmp_path / "wide.pth")).attach(toy())
    with pytest.raises(RuntimeError, match="`checkpoint`.*does not fit this model"):
        TeacherHook(checkpoint=str(tmp_path / "wide.pth")).attach(toy())
    torch.save({**weights, "head.fc.weight": torch.zeros(7, 96), "head.fc.bias": torch.zeros(7)}, tmp_path / "cls.pth")
    network = dict(
        type="mmpretrain.ImageClassifier",
        backbone=dict(type="mmpretrain.ConvNeXt", **{**wide, "out_indices": [3]}),
        head=dict(type="mmpretrain.LinearClsHead", num_classes=7, in_channels=96),
    )
    student = dict(arch=wide["arch"], layer_scale_init_value=1.0)
    network["backbone"].update(gap_before_final_norm=True)
    state = {k: v for k, v in torch.load(tmp_path / "cls.pth").items() if "norm0" not in k}
    torch.save(state, tmp_path / "cls.pth")
    model = classifier(DynamicConvNeXt(**student, sparsity={"places": [(2, 0)], "keep_ratio": [0.5]}),
                       LinearClsHead(5, 96))  # fmt: skip
    with pytest.raises(ValueError, match="5 logits, the teacher 7 logits"):
        TeacherHook(network, checkpoint=str(tmp_path / "cls.pth")).attach(model)


# ---- trainings ----


class Pictures(Dataset):
    metainfo: dict = {}

    def __len__(self):
        return 400  # mmengine waits two seconds before it begins anew

    def __getitem__(self, index):
        return dict(inputs=torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(index % 4)))


class Silent(Toy):
    """Only the teacher has something to say."""

    def forward(self, inputs, data_samples=None, mode="tensor"):
        maps = self.backbone(inputs)
        return dict(nothing=maps[-1].new_zeros(())) if mode == "loss" else maps


def train(work_dir, model, hook, iters=6, resume=None, custom=(), lr=1e-3, **kwargs):
    logged = {}
    runner = Runner(
        model,
        str(work_dir),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            dataset=Pictures(),
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=iters),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=lr)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=max(iters // 2, 3), by_epoch=False)),
        custom_hooks=[hook, SparsityHook(anneal=None), dict(type="mmsparse.SeedHook", seed=0), *custom],
        resume=resume is not None,
        load_from=None if resume is None else str(resume),
        default_scope="mmengine",
        experiment_name=f"{work_dir}-{resume}-{kwargs}",
    )
    parse = type(model).parse_losses

    def note(losses):
        logged[runner.iter] = losses["loss_distill_feat"].item()
        return parse(model, losses)

    model.parse_losses = note
    runner.train()
    return logged, runner


class Start(Hook):
    """The student's weights when its training begins: Runner draws them anew."""

    priority = "LOWEST"

    def before_train(self, runner):
        self.state = copy.deepcopy(runner.model.state_dict())


def silent():
    torch.manual_seed(0)
    return Silent(DynamicConvNeXt(**CONVNEXT, sparsity=dict(keep_ratio=0.5)))


def test_learning_from_the_teacher_alone(tmp_path):
    logged, _ = train(tmp_path, silent(), TeacherHook(), iters=40, lr=3e-3)
    values = list(logged.values())
    assert sum(values[-5:]) < 0.5 * sum(values[:5])


@pytest.mark.parametrize("ema", [False, True])
def test_a_resumed_student_has_the_same_teacher(tmp_path, ema):
    custom = [dict(type="EMAHook")] if ema else []
    first, hook = Start(), TeacherHook()
    straight, runner = train(tmp_path, silent(), hook, custom=[*custom, first], lr=1e-2)
    content = torch.load(tmp_path / "iter_3.pth", weights_only=False)
    own = set(runner.model.state_dict())
    assert set(content["state_dict"]) == own and set(content["teacher_state_dict"]) == own
    for key, value in content["teacher_state_dict"].items():
        assert torch.equal(value, first.state[key]) and torch.equal(value, hook.parts.state_dict()[key])
    held = sum(len(group["params"]) for group in runner.optim_wrapper.optimizer.param_groups)
    assert held == len(list(runner.model.parameters()))
    resume = dict(resume=tmp_path / "iter_3.pth", custom=custom, lr=1e-2)
    again, _ = train(tmp_path / "again", silent(), TeacherHook(), **resume)
    assert sorted(again) == [3, 4, 5]
    for step, value in again.items():
        assert value == pytest.approx(straight[step], rel=1e-5) and value > 1e-4


def test_resuming_without_a_teacher_is_refused(tmp_path):
    train(tmp_path, silent(), TeacherHook("self"), iters=3)
    assert "teacher_state_dict" not in torch.load(tmp_path / "iter_3.pth", weights_only=False)
    with pytest.raises(ValueError, match="holds no teacher.*`checkpoint`.*load_from"):
        train(tmp_path / "again", silent(), TeacherHook(), resume=tmp_path / "iter_3.pth")


def test_a_detector_learns_from_its_dense_twin_on_scenes(scenes, tmp_path):
    """The recipe as a user writes it: dense checkpoint, both hooks, the optimizer's constructor."""
    from mmengine.registry import MODELS, init_default_scope

    dense_cfg = read_config(DENSE_DEMO)
    init_default_scope("mmdet")
    detector = MODELS.build(dense_cfg.model)
    detector.init_weights()
    torch.save({"state_dict": detector.state_dict()}, tmp_path / "dense.pth")
    cfg = read_config(
        DEMO,
        {
            **at(scenes),
            "train_cfg.max_iters": 6,
            "train_cfg.val_interval": 100,
            "default_hooks.checkpoint.interval": 3,
            "default_hooks.logger.interval": 1,
            "log_processor.window_size": 1,
            "param_scheduler": [dict(type="LinearLR", start_factor=0.5, by_epoch=False, begin=0, end=4)],
            "optim_wrapper.constructor": "mmsparse.SparsityOptimWrapperConstructor",
            "optim_wrapper.paramwise_cfg": dict(
                backbone_mult=0.2, freeze_iters=3, norm_decay_mult=0.0, bias_decay_mult=0.0
            ),
            "custom_hooks": [
                dict(type="mmsparse.TeacherHook", teacher=DENSE_DEMO, checkpoint=str(tmp_path / "dense.pth")),
                dict(type="mmsparse.SparsityHook", anneal=None),
            ],
            "load_from": str(tmp_path / "dense.pth"),
        },
    )
    cfg.work_dir = str(tmp_path / "work")
    cfg.visualizer.name = cfg.work_dir  # of one name there is one a process
    cfg.experiment_name = os.path.basename(tmp_path)
    runner = Runner.from_cfg(Config(cfg._cfg_dict))
    runner.train()
    entries = [
        json.loads(line)
        for file in (tmp_path / "work").glob("*/vis_data/scalars.json")
        for line in file.read_text().splitlines()
        if "loss_distill_feat" in line
    ]
    assert len(entries) == 6
    for entry in entries:
        assert entry["loss_distill_feat"] > 0 and math.isfinite(entry["loss"])
        assert entry["keep_ratio/s2b0"] == pytest.approx(0.5, abs=0.03)
    start, middle, end = (
        {k: v for k, v in torch.load(path, weights_only=False)["state_dict"].items() if ".router." not in k}
        for path in (tmp_path / "dense.pth", tmp_path / "work/iter_3.pth", tmp_path / "work/iter_6.pth")
    )
    for key in start:
        if key.startswith("backbone."):
            assert torch.equal(start[key], middle[key]), key
    key = "backbone.stages.0.0.pointwise_conv1.weight"
    assert not torch.equal(middle[key], end[key])
    assert not torch.equal(start["neck.convs.0.conv.weight"], middle["neck.convs.0.conv.weight"])
