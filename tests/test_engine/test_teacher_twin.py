"""The losses beside a frozen twin against the same numbers made by hand."""

import math

import pytest
import torch
from mmpretrain.models import GlobalAveragePooling, LinearClsHead, VisionTransformerClsHead
from students import SWIN, Neck, Toy, classifier, cnn_classifier, frozen_copy, labels, shaken, swin_toy, toy, vit

from mmsparse.apis import record_selections
from mmsparse.engine import TeacherHook
from mmsparse.models import DynamicSwin
from mmsparse.sparsity.losses import feature_distillation, logit_distillation


def divergence(mine, theirs):
    """KL of the student's class distribution from the teacher's."""
    mine, theirs = mine.log_softmax(1), theirs.log_softmax(1)
    return (theirs.exp() * (theirs - mine)).sum() / len(mine)


def student_logits(model):
    """What the head gives the student in training."""
    logits = []
    model.head.register_forward_hook(lambda m, a, out: logits.append(out.detach()) if m.training else None)
    return logits


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
    maps, logits = [], student_logits(model)
    model.backbone.stages[3][-1].register_forward_hook(lambda m, a, out: maps.append(out) if m.training else None)
    losses = model(x, labels(2), mode="loss")
    with torch.no_grad():
        twin.backbone.gap_before_final_norm = False
        target = twin.backbone(x)[-1]
        twin.backbone.gap_before_final_norm = True
        feature = 0.5 * (model.backbone.norm3(maps[0]) - target).square().mean()
        logit = 0.5 * divergence(logits[0], twin(x))
    assert target.shape == (2, 64, 2, 2)
    assert set(losses) == {"loss", "loss_distill_feat", "loss_distill_cls"}
    torch.testing.assert_close(losses["loss_distill_feat"], feature)
    torch.testing.assert_close(losses["loss_distill_cls"], logit)
    total, logged = model.parse_losses(losses)
    torch.testing.assert_close(total, sum(losses.values()))
    assert logged["loss_distill_cls"] == losses["loss_distill_cls"]


def test_classifier_with_a_pooling_neck():
    model = classifier(DynamicSwin(**SWIN, sparsity={}), LinearClsHead(5, 128), GlobalAveragePooling())
    twin, x = frozen_copy(model), torch.randn(2, 3, 64, 64)
    TeacherHook().attach(model)
    shaken(model)
    logits = student_logits(model)
    found = model(x, labels(2), mode="loss")["loss_distill_cls"]
    with torch.no_grad():
        expected = 0.5 * divergence(logits[0], twin(x))
    assert expected > 1e-4
    torch.testing.assert_close(found, expected)


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
    tokens, logits = [], student_logits(model) if out_type == "cls_token" else []
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
    if out_type == "cls_token":
        with torch.no_grad():
            torch.testing.assert_close(losses["loss_distill_cls"], 0.5 * divergence(logits[0], twin(x)))
