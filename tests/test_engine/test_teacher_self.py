"""A student that teaches itself, and what both it and a twin must leave as it is: flags, gradients, other hooks."""

import copy

import pytest
import torch
import torch.nn.functional as F
from students import cnn_classifier, frozen_copy, labels, shaken, swin_toy, toy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmsparse.apis import find_deciders, pop_aux, set_keep_ratio
from mmsparse.engine import SparsityHook, TeacherHook


class BatchNormNeck(nn.BatchNorm2d):
    def __init__(self):
        super().__init__(64)

    def forward(self, maps):
        return (super().forward(maps[-1]),)


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
    assert all(d.keep_ratio < 1 for d in find_deciders(model))
    if teacher == "twin":
        own = set(map(id, model.parameters()))
        assert not any(id(p) in own or p.requires_grad or p.grad is not None for p in hook.parts.parameters())


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
    pop_aux(alone)
    outputs = []
    for m in (model, alone):
        torch.manual_seed(3)
        outputs.append(m(x, mode="tensor"))
    torch.testing.assert_close(*outputs)


def test_attaching_twice_adds_once():
    model, hook = toy(), TeacherHook("self")
    hook.attach(model)
    before = len(model._forward_hooks), len(model.backbone._forward_hooks)
    hook.attach(model)
    assert before == (len(model._forward_hooks), len(model.backbone._forward_hooks)) == (1, 1)


def test_a_second_hook_is_refused():
    model = toy()
    TeacherHook("self").attach(model)
    with pytest.raises(RuntimeError, match="^TeacherHook: a TeacherHook adds 'loss_distill' .* already. Keep one"):
        TeacherHook("twin", module="backbone").attach(model)


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
