"""One picture through a routed network and its dense twin."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from mmengine.structures import InstanceData
from small_networks import BACKBONE, DETECTOR, SEGMENTER

from mmsparse.analysis import count_macs
from mmsparse.apis import dense_twin, get_keep_ratio, record_selections, set_keep_ratio
from mmsparse.calls import predict, prepare_batch
from mmsparse.cli.building import build_model, random_pictures
from mmsparse.visualization.looking import look
from mmsparse.visualization.panels import draw_found

KINDS = dict(mmdet="mmdet.DetLocalVisualizer", mmseg="mmseg.SegLocalVisualizer", mmpretrain="UniversalVisualizer")
META = dict(classes=("cat", "dog", "sky"), palette=[(200, 160, 120), (40, 50, 60), (70, 80, 90)])
CLASSIFIER = Config(dict(
    default_scope="mmpretrain",
    model=dict(
        type="ImageClassifier",
        data_preprocessor=dict(type="ClsDataPreprocessor", mean=[127.0] * 3, std=[50.0] * 3),
        backbone={**BACKBONE, "out_indices": [3], "gap_before_final_norm": True},
        head=dict(type="LinearClsHead", num_classes=3, in_channels=32),
    ),
))  # fmt: skip
BACKBONE_PLACES = ["backbone.s2b1", "backbone.s3b0"]
PLACES = dict(
    mmdet=[*BACKBONE_PLACES, "neck.fpn_convs.0.conv", "neck.fpn_convs.1.conv", "head.level0", "head.level1"],
    mmseg=[
        *BACKBONE_PLACES,
        *(f"decode_head.{name}.conv" for name in ("fpn_convs.0", "fpn_convs.1", "fpn_bottleneck")),
    ],
    mmpretrain=BACKBONE_PLACES,
)
NETWORKS = pytest.mark.parametrize("cfg", [DETECTOR, SEGMENTER, CLASSIFIER], ids=lambda cfg: cfg.default_scope)


def setting(cfg, size=(64, 96)):
    model = build_model(cfg)
    kind = KINDS[cfg.default_scope]
    visualizer = VISUALIZERS.build(dict(type=kind, name=f"looking {cfg.default_scope}"))
    visualizer.dataset_meta = META
    return model, visualizer, random_pictures(cfg, 1, size)[0]


def counted(model, picture):
    batch = prepare_batch(model, [copy.deepcopy(picture)])
    return count_macs(model, lambda: predict(model, batch))


@NETWORKS
def test_places_and_macs_are_those_of_the_calls(cfg):
    model, visualizer, picture = setting(cfg)
    seen = look(model, visualizer, picture, "a.png", score_thr=0.0)
    assert list(seen.places) == PLACES[cfg.default_scope]
    with record_selections(model) as taken:
        assert seen.routed.macs == counted(model, picture)
    for place, share in seen.places.items():
        (selection,) = [found for name, found in taken if place in (name, f"backbone.{name}")]
        padded = prepare_batch(model, [picture])["inputs"].shape[-2:]
        assert np.array_equal(share, selection.on_picture(padded).float().numpy()[:64, :96]) and 0 < share.mean() < 1
    with dense_twin(model):
        assert seen.dense.macs == counted(model, picture)
    assert seen.dense.macs.total > seen.routed.macs.total and seen.dense.macs.scorers == 0
    assert (seen.image == picture["inputs"].permute(1, 2, 0).numpy()[..., ::-1]).all()
    assert seen.routed.ms is seen.dense.ms is None


@NETWORKS
def test_another_budget_is_of_one_call(cfg):
    model, visualizer, picture = setting(cfg)
    before, hooks = get_keep_ratio(model), len(model._forward_hooks)
    quarter = look(model, visualizer, picture, "a.png", keep_ratio=0.25, rounds=1)
    whole = look(model, visualizer, picture, "a.png", keep_ratio=1.0)
    assert get_keep_ratio(model) == before and len(model._forward_hooks) == hooks
    assert whole.routed.macs == whole.dense.macs == quarter.dense.macs
    assert list(whole.places) == list(quarter.places) and all((share == 1).all() for share in whole.places.values())
    assert np.array_equal(whole.routed.found.drawn, whole.dense.found.drawn)
    assert quarter.routed.ms > 0 and quarter.dense.ms > 0
    set_keep_ratio(model, 0.25)
    assert quarter.routed.macs == counted(model, picture)


def test_what_was_found_is_named():
    _, visualizer, picture = setting(DETECTOR)
    sample = copy.deepcopy(picture["data_samples"])
    boxes = torch.tensor([[4.0, 4.0, 40.0, 60.0]] * 4)
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.1]), torch.tensor([1, 1, 2, 0])
    sample.pred_instances = InstanceData(bboxes=boxes, scores=scores, labels=labels)
    found = draw_found(visualizer, np.zeros((64, 96, 3), np.uint8), sample, 0.3)
    assert found.names == ["2 dog", "1 sky"] and found.caption == "detections, score > 0.3"
    assert found.drawn.any() and torch.equal(sample.pred_instances.bboxes, boxes)  # the sample is as it was
    _, visualizer, picture = setting(CLASSIFIER)
    sample = copy.deepcopy(picture["data_samples"]).set_pred_score(torch.tensor([0.1, 0.2, 0.7]))
    found = draw_found(visualizer, np.zeros((64, 96, 3), np.uint8), sample, 0.3)
    assert found.names == ["sky 0.70", "dog 0.20", "cat 0.10"] and not found.drawn.any()
    assert found.caption == "most likely sky 0.70"
    visualizer.dataset_meta = dict(classes=None)  # of a test set that names none
    assert draw_found(visualizer, found.drawn, sample, 0.3).names == ["class 2 0.70", "class 1 0.20", "class 0 0.10"]


def test_masks_are_drawn_where_the_picture_is_larger():
    _, visualizer, picture = setting(DETECTOR)
    sample = copy.deepcopy(picture["data_samples"])
    masks = torch.zeros(1, 64, 96, dtype=torch.bool)
    masks[:, :32] = True
    instances = dict(bboxes=torch.tensor([[0.0, 0.0, 96.0, 32.0]]), scores=torch.ones(1), labels=torch.tensor([0]))
    sample.pred_instances = InstanceData(**instances, masks=masks)
    drawn = draw_found(visualizer, np.zeros((64, 96, 3), np.uint8), sample, 0.3).drawn
    assert drawn.shape == (512, 768, 3) and drawn[100:240, 200:700].all() and not drawn[280:].any()
