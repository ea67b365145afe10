"""Everything kept learns in the step of the routed network, and teaches its predictions."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from small_networks import DETECTOR, SEGMENTER, pictures

from mmsparse.apis import dense_twin, find_deciders, set_keep_ratio
from mmsparse.cli.building import build_plain
from mmsparse.engine import InPlaceHook, SparsityHook
from mmsparse.sparsity.losses import detection_distillation


def ready(cfg, *hooks):
    torch.manual_seed(0)
    model = build_plain(cfg).train()
    batch = model.data_preprocessor(copy.deepcopy(pictures(cfg, (128, 160), (128, 160))), True)
    for hook in hooks:
        hook.attach(model)
    return model, batch


def total(losses):
    return sum(v.mean() if torch.is_tensor(v) else sum(v) for k, v in losses.items() if "loss" in k)


@pytest.mark.parametrize("cfg", [DETECTOR, SEGMENTER], ids=["detector", "segmenter"])
@pytest.mark.parametrize("first", ["sparsity", "in place"])
def test_the_losses_are_those_of_both_networks(cfg, first):
    hooks = [SparsityHook(anneal=None), InPlaceHook(dense_weight=0.5)]
    model, batch = ready(cfg, *(hooks if first == "sparsity" else hooks[::-1]))
    alone, _ = ready(cfg)
    for decider in find_deciders(alone):
        decider.collected = True
    torch.manual_seed(1)
    losses = model(**batch, mode="loss")
    torch.manual_seed(1)
    routed = alone(**batch, mode="loss")
    with dense_twin(alone), torch.no_grad():
        alone.eval()
        for module in (alone, alone.backbone):
            module.training = True
        dense = alone(**batch, mode="loss") if cfg is DETECTOR else None
    for name, loss in routed.items():
        torch.testing.assert_close(losses[name], loss)
    if dense is not None:
        torch.testing.assert_close(losses["loss_dense"], 0.5 * total(dense), rtol=1e-5, atol=1e-6)
    assert losses["loss_distill_head"] > 0
    assert {f"keep_ratio/{d.name}" for d in find_deciders(model)} <= losses.keys()
    assert all(decider.training for decider in find_deciders(model))
    total(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_what_agrees_teaches_nothing():
    model, batch = ready(DETECTOR, InPlaceHook())
    set_keep_ratio(model, 1.0)
    for decider in find_deciders(model):
        decider.collected = True
    losses = model(**batch, mode="loss")
    assert losses["loss_distill_head"] < 1e-6


def test_the_teacher_gets_no_gradient():
    model, batch = ready(DETECTOR, InPlaceHook(dense_weight=0.0))
    for decider in find_deciders(model):
        decider.collected = True
    losses = model(**batch, mode="loss")
    assert "loss_dense" not in losses and losses["loss_distill_head"].requires_grad
    maps = [[torch.randn(1, 3, 4, 4, requires_grad=True)] for _ in range(4)]
    detection_distillation(maps[:2], maps[2:]).backward()
    assert [m[0].grad is None for m in maps] == [False, False, True, True]


def test_distillation_is_per_object_the_teacher_sees():
    """One location of one level is an object to the teacher; the student lacks it, and has another box there."""
    theirs, mine = torch.full((1, 2, 2, 2), -20.0), torch.full((1, 2, 2, 2), -20.0)
    theirs[0, 1, 0, 1] = 20.0
    boxes, others = torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    boxes[0, :, 0, 1], boxes[0, :, 1, 1] = 2.0, 9.0  # the second where nobody sees an object
    found = detection_distillation(([mine], [boxes]), ([theirs], [others]))
    torch.testing.assert_close(found, torch.tensor(20.0 + 2.0), rtol=1e-5, atol=1e-5)


def test_mistakes():
    dense = ConfigDict(DETECTOR.model)
    dense = copy.deepcopy(DETECTOR)
    dense.model.backbone.sparsity = dense.model.neck.sparsity = dense.model.bbox_head.sparsity = None
    with pytest.raises(ValueError, match="no dynamic part"):
        InPlaceHook().attach(build_plain(dense))
    with pytest.raises(ValueError, match="head_weight"):
        InPlaceHook(head_weight=-1.0)
