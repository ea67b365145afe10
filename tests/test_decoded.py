"""Exported networks that end in boxes, label maps or scores: what the stock post-processing makes of the same."""

import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from small_networks import DETECTOR, SEGMENTER
from torch import nn

from mmsparse.calls import predict, prepare_batch
from mmsparse.cli.building import build_model, build_plain, random_pictures
from mmsparse.configs import read_config
from mmsparse.deploy import Wish, export, serve
from mmsparse.deploy.decode import decoder_of
from mmsparse.deploy.program import Program

SIZE, REAL = (64, 96), [(64, 96), (40, 70)]  # of a batch, and of its pictures
STRIDES = [8, 16]
ANCHORS = dict(type="AnchorGenerator", octave_base_scale=4, scales_per_octave=1, strides=STRIDES)
DENSE = dict(num_classes=3, in_channels=8, feat_channels=8)
NORM = dict(type="GN", num_groups=2)
CE = dict(type="CrossEntropyLoss", use_sigmoid=False)
RETINA = dict(type="RetinaHead", **DENSE, anchor_generator=dict(**ANCHORS, ratios=[0.5, 1.0, 2.0]))
ONE = dict(**DENSE, norm_cfg=NORM, anchor_generator=dict(**ANCHORS, ratios=[1.0]))
HEADS = {
    "RetinaHead": (RETINA, [9, 12]),  # and channels of its results
    "RetinaHead, softmax": (dict(**RETINA, loss_cls=CE), [12, 12]),
    "ATSSHead": (dict(type="ATSSHead", **ONE), [3, 4, 1]),
    "FCOSHead": (dict(type="FCOSHead", **DENSE, norm_cfg=NORM, strides=STRIDES), [3, 4, 1]),
    "GFLHead": (dict(type="GFLHead", **ONE), [3, 68]),
}
TEST = dict(nms_pre=40, min_bbox_size=0, score_thr=0.3, nms=dict(type="nms", iou_threshold=0.4), max_per_img=25)
TESTS = {
    "plain": {},
    "of all classes": dict(nms=dict(type="nms", iou_threshold=0.4, class_agnostic=True)),
    "few pass": dict(score_thr=0.97, nms_pre=1000),
    "none passes": dict(score_thr=1.0),
    "large ones": dict(min_bbox_size=24),
}


def head_of(cfg, **test):
    init_default_scope("mmdet")
    model = nn.Module()
    model.bbox_head = MODELS.build(dict(**cfg, test_cfg=ConfigDict({**TEST, **test})))
    return model


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("name", HEADS)
def test_boxes_are_the_stock_ones(name, test):
    cfg, channels = HEADS[name]
    model = head_of(cfg, **TESTS[test])
    head = model.bbox_head
    shapes = [(SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES]
    raw = [[2 * torch.randn(2, count, *shape) for shape in shapes] for count in channels]
    if name == "FCOSHead":
        raw[1] = [10 * distances.abs() for distances in raw[1]]
    metas = [dict(img_shape=real, scale_factor=(1.0, 1.0)) for real in REAL]
    expected = head.predict_by_feat(*map(copy.deepcopy, raw), batch_img_metas=metas, cfg=head.test_cfg)
    names = dict(zip(("cls_scores", "bbox_preds", "score_factors"), raw, strict=False))
    decoded = decoder_of(model, "detector")(names, torch.zeros(2, 3, *SIZE), torch.tensor(REAL))
    assert decoded["dets"].shape == (2, 25, 5) and decoded["labels"].shape == (2, 25)
    for dets, labels, wanted in zip(decoded["dets"], decoded["labels"], expected, strict=True):
        count = len(wanted)
        assert labels.tolist() == wanted.labels.tolist() + [-1] * (25 - count)
        torch.testing.assert_close(dets[:count, :4], wanted.bboxes, rtol=0, atol=1e-3)
        torch.testing.assert_close(dets[:count, 4], wanted.scores, rtol=1e-5, atol=0)
        assert not dets[count:].any()
    counts = [len(wanted) for wanted in expected]
    assert counts == [0, 0] if test == "none passes" else all(0 < count < 26 for count in counts)


class Decoding(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.decode = model, decoder_of(model, "detector")

    def forward(self, scores, boxes, sizes):
        return self.decode(dict(cls_scores=[scores], bbox_preds=[boxes]), torch.zeros(1, 3, *SIZE), sizes)


def test_no_shape_depends_on_data():
    cfg, (classes, sides) = HEADS["RetinaHead"]
    anchors = {**cfg["anchor_generator"], "strides": STRIDES[:1]}
    model = head_of({**cfg, "anchor_generator": anchors}, max_per_img=3)
    raw = [torch.randn(1, channels, 8, 12) for channels in (classes, sides)]
    program = torch.export.export(Decoding(model), (*raw, torch.tensor([SIZE])), strict=False)
    seen = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.topk.default" in seen
    words = ("nonzero", "scatter", "index_copy", "index_put", "masked_select", "sym_size", "local_scalar", "nms")
    assert not [target for target in seen for word in words if word in target]


def dense(cfg):
    """A short backbone and no decisions: what takes long to export."""
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.arch.depths = [1, 1, 1, 1]
    parts = [cfg.model[name] for name in ("backbone", "neck", "bbox_head", "decode_head") if name in cfg.model]
    for part in parts:
        del part.sparsity
    for part in parts[1:]:
        part.type = part.type.replace("mmsparse.Dynamic", "")
    return cfg


@pytest.fixture(scope="module")
def detector():
    """Unlike at first, its classes and boxes differ from place to place, and it sees two of a kind."""
    cfg = dense(DETECTOR)
    cfg.model.backbone.out_indices = [2, 3]
    cfg.model.neck.update(in_channels=[16, 32], num_outs=2)
    cfg.model.bbox_head.anchor_generator.strides = [16, 32]
    cfg.model.test_cfg.update(nms_pre=30, max_per_img=5)
    torch.manual_seed(2)
    model = build_model(cfg)
    torch.manual_seed(2)
    for conv in (model.bbox_head.retina_cls, model.bbox_head.retina_reg):
        nn.init.normal_(conv.weight, std=0.3)
        nn.init.zeros_(conv.bias)
    return model


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_detector_predicts_in_another_runtime(runtime, detector, tmp_path):
    artifact = export(detector, Wish(runtime, [SIZE], decoded=True), tmp_path / "out")
    assert artifact.names == ["dets", "labels"] and artifact.decoded and artifact.agreement["64x96"] < 1e-3
    batch = prepare_batch(detector, random_pictures(DETECTOR, 1, SIZE))
    with torch.no_grad():
        (wanted,) = (sample.pred_instances for sample in predict(detector, batch))
    dets, labels = artifact.load(tmp_path / "out", SIZE)([batch["inputs"], torch.tensor([SIZE])])
    assert len(wanted) == 5 and len(set(wanted.labels.tolist())) == 2
    assert labels.tolist() == [wanted.labels.tolist()]
    torch.testing.assert_close(dets[0, :, :4], wanted.bboxes, rtol=0, atol=1e-3)
    torch.testing.assert_close(dets[0, :, 4], wanted.scores, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="was exported with --decoded, for use without PyTorch. Export it without"):
        serve(copy.deepcopy(detector), tmp_path / "out")


@pytest.mark.parametrize("classes", [3, 1])
def test_a_segmenter_ends_in_a_label_map(classes, tmp_path):
    cfg = dense(SEGMENTER)
    if classes == 1:
        cfg.model.decode_head.update(num_classes=2, out_channels=1, threshold=0.5)
    torch.manual_seed(0)
    model = build_plain(cfg).eval()
    batch = prepare_batch(model, random_pictures(SEGMENTER, 1, SIZE))
    with torch.no_grad():
        (wanted,) = (sample.pred_sem_seg.data for sample in predict(model, batch))
        (labels,) = Program(model, decoded=True)(batch["inputs"])
        assert len(wanted.unique()) > 1 and torch.equal(labels, wanted)
    if classes == 3:
        artifact = export(model, Wish("torch-export", [SIZE], decoded=True), tmp_path / "out")
        (labels,) = artifact.load(tmp_path / "out", SIZE)([batch["inputs"]])
        assert artifact.names == ["labels"] and (labels == wanted).float().mean() > 0.999


def test_a_classifier_ends_in_scores():
    small = {"model.backbone.arch": "atto", "model.head.in_channels": 320}
    model = build_plain(read_config("configs/imagenet/dynamic-convnext-t_k70_32xb128-120e_in1k.py", small)).eval()
    pictures = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = [sample.pred_score for sample in model(pictures, mode="predict")]
        (scores,) = Program(model, decoded=True)(pictures)
    torch.testing.assert_close(scores, torch.stack(wanted))


@pytest.mark.parametrize(
    "cfg, test, message",
    [
        (
            RETINA,
            dict(nms=dict(type="soft_nms", iou_threshold=0.5)),
            "RetinaHead does with test_cfg.nms={'type': 'soft",
        ),
        (RETINA, dict(nms_pre=-1), "RetinaHead does with test_cfg of nms_pre=-1 and max_per_img=25. Export without"),
        (dict(**RETINA, bbox_coder=dict(type="TBLRBBoxCoder")), {}, "does with a TBLRBBoxCoder"),
        (dict(type="PAAHead", **ONE), {}, "PAAHead does with its results"),
    ],
)
def test_heads_that_are_refused(cfg, test, message):
    with pytest.raises(ValueError, match=f"--decoded cannot do what a .*{message}"):
        decoder_of(head_of(cfg, **test), "detector")


def test_what_else_is_refused(detector):
    with pytest.raises(ValueError, match="--decoded is for dense detectors, segmenters and classifiers, but got prop"):
        decoder_of(detector, "proposals")
    with pytest.raises(ValueError, match="but got backbone"):
        export(detector, Wish("onnx", [SIZE], part="backbone", decoded=True), None)
    with pytest.raises(ValueError, match="--decoded needs --precision f32, but got bf16, in which boxes are off"):
        export(detector, Wish("openvino", [SIZE], precision="bf16", decoded=True), None)
