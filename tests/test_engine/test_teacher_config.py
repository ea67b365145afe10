"""Another network as teacher, and every teacher or student that is refused."""

import copy

import pytest
import torch
from mmpretrain.models import ConvNeXt, LinearClsHead
from scenes import ROOT
from students import CONVNEXT, MICRO, classifier, toy
from torch import nn

from mmsparse.engine import TeacherHook
from mmsparse.models import DynamicConvNeXt

DENSE_DEMO = str(ROOT / "configs/demo/atss_convnext-mini_scenes.py")


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
        student = copy.deepcopy(model)
        hook.attach(student)
        torch.manual_seed(0)
        found.append(student(x, mode="loss")["loss_distill_feat"].item())
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
        (
            dict(teacher="mmdet::nosuch/x.py"),
            r"^TeacherHook: expected argument `teacher` .*'mmdet::nosuch.*' \(.+\)$",
        ),
        (dict(teacher="nosuch::x.py"), r"^TeacherHook: expected argument `teacher` .*'nosuch::x.py' \(.+\)$"),
        (dict(teacher="mmdet::atss/atss_r50_fpn_1x_coco.py"), "has no weights; name its `checkpoint`"),
        (dict(feature_weight=-1), "`feature_weight` to be >= 0, but got -1"),
        (dict(feature_weight="a"), "^TeacherHook: expected argument `feature_weight` to be a number >= 0, but got 'a'"),
        (dict(logit_weight=None), "^TeacherHook: expected argument `logit_weight` to be a number >= 0, but got None"),
        (dict(levels=()), "`levels`"),
        (dict(levels=1), "`levels`"),
        (dict(levels=(True,)), r"`levels` to be whole numbers such as \(-1,\), but got \(True,\)"),
        (dict(module="bbox_head"), "`module`.*'bbox_head'"),
    ],
)
def test_mistakes_are_named(kwargs, message):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        TeacherHook(**kwargs)


@pytest.mark.parametrize(
    "kwargs, make, message",
    [
        (dict(levels=(4,)), toy, r"`levels`: got \(4,\), but DynamicConvNeXt gives 4 output\(s\); allowed are -4 to 3"),
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
