"""Pictures of two sizes in one batch, through the libraries' own steps."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseTTAModel
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData, PixelData

import mmsparse
from mmsparse.analysis.focus import object_focus
from mmsparse.apis import find_decisions, record_selections
from mmsparse.engine import SparsityHook
from mmsparse.engine.launch import build_model, build_plain, random_pictures
from mmsparse.sparsity import num_keep

BACKBONE = dict(
    type="mmsparse.DynamicConvNeXt",
    arch=dict(depths=[1, 1, 3, 1], channels=[8, 16, 16, 32]),
    out_indices=[0, 1, 2, 3],
    gap_before_final_norm=False,
    layer_scale_init_value=1.0,
    sparsity=dict(places=[(2, 1), (3, 0)], keep_ratio=[0.5, 0.5]),
)
ROUTED = dict(keep_ratio=0.5, levels=2, tile=2)
DETECTOR = Config(dict(
    default_scope="mmdet",
    model=dict(
        type="RetinaNet",
        data_preprocessor=dict(type="DetDataPreprocessor", mean=[127.0] * 3, std=[50.0] * 3, pad_size_divisor=32),
        backbone=BACKBONE,
        neck=dict(type="mmsparse.DynamicFPN", in_channels=[8, 16, 16, 32], out_channels=16, num_outs=4,
                  sparsity=ROUTED),
        bbox_head=dict(
            type="mmsparse.DynamicRetinaHead", num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1,
            anchor_generator=dict(type="AnchorGenerator", octave_base_scale=4, scales_per_octave=1, ratios=[1.0],
                                  strides=[4, 8, 16, 32]),
            bbox_coder=dict(type="DeltaXYWHBBoxCoder"), sparsity=ROUTED,
        ),
        train_cfg=dict(assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
                       sampler=dict(type="PseudoSampler"), allowed_border=-1, pos_weight=-1, debug=False),
        test_cfg=dict(nms_pre=10, min_bbox_size=0, score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5),
                      max_per_img=5),
    ),
))  # fmt: skip
SEGMENTER = Config(dict(
    default_scope="mmseg",
    model=dict(
        type="EncoderDecoder",
        data_preprocessor=dict(type="SegDataPreProcessor", mean=[127.0] * 3, std=[50.0] * 3, size=(128, 160),
                               test_cfg=dict(size_divisor=32)),
        backbone=BACKBONE,
        decode_head=dict(type="mmsparse.DynamicUPerHead", in_channels=[8, 16, 16, 32], in_index=[0, 1, 2, 3],
                         channels=8, pool_scales=(1, 2), num_classes=3, norm_cfg=dict(type="BN"), sparsity=ROUTED),
        train_cfg=dict(),
        test_cfg=dict(mode="whole"),
    ),
))  # fmt: skip
SMALL, LARGE, PADDED = (70, 100), (128, 150), (128, 160)


def pictures(cfg, *sizes):
    found = [random_pictures(cfg, 1, size)[0] for size in sizes]
    for picture, size in zip(found, sizes, strict=True):
        if cfg.default_scope == "mmdet":
            boxes = InstanceData(bboxes=torch.tensor([[4.0, 4.0, 40.0, 60.0]]), labels=torch.tensor([1]))
            picture["data_samples"].gt_instances = boxes
        else:
            picture["data_samples"].gt_sem_seg = PixelData(data=torch.randint(0, 3, (1, *size)))
    return dict(
        inputs=[picture["inputs"] for picture in found], data_samples=[picture["data_samples"] for picture in found]
    )


def locations(name, grid, real, padded=PADDED):
    """How many locations (tiles of necks and heads, whose last ones may reach over the border) hold a real pixel."""
    tile = 1 if name.startswith("s") else 2
    strides = [stride for stride in (4, 8, 16, 32) if -(-padded[0] // (stride * tile)) == grid[0]]
    strides = [stride for stride in strides if -(-padded[1] // (stride * tile)) == grid[1]]
    high, wide = (-(-side // (strides[0] * tile)) for side in real)
    return high * wide


def check(taken, sizes, padded=PADDED):
    assert {name.split(".")[0][0] for name, _ in taken} == {"s", "n", "h"} or len(taken) > 4
    for name, selection in taken:
        expected = [num_keep(0.5, locations(name, selection.grid, size, padded)) for size in sizes]
        assert selection.keep_mask.sum(dim=1).tolist() == expected == selection.num_keep, name


@pytest.mark.parametrize("cfg", [DETECTOR, SEGMENTER], ids=["mmdet", "mmseg"])
def test_training_step(cfg):
    cfg = copy.deepcopy(cfg)
    for part in ("backbone", "neck", "bbox_head", "decode_head"):
        if part in cfg.model:
            cfg.model[part].sparsity.learn = "gate"  # what has a ratio loss
    model = build_plain(cfg).train()
    SparsityHook(loss_weight=1.0, score_weight=1.0).attach(model)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    with record_selections(model) as taken:
        logged = model.train_step(pictures(cfg, SMALL, LARGE), wrapper)
    check(taken, (SMALL, LARGE))
    errors = []
    for name, selection in taken:
        real = [locations(name, selection.grid, size) for size in (SMALL, LARGE)]
        assert logged[f"keep_ratio/{name}"] == pytest.approx(sum(selection.num_keep) / sum(real))
        errors += [(kept / number - 0.5) ** 2 for kept, number in zip(selection.num_keep, real, strict=True)]
    # exact counts, of the real locations: only rounding is left
    assert logged["loss_sparsity"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-3) and max(errors) > 1e-6
    assert torch.isfinite(logged["loss_score"]) and torch.isfinite(logged["loss"])


def test_detector_test_step():
    model = build_model(DETECTOR)
    with record_selections(model) as taken:
        results = model.test_step(pictures(DETECTOR, SMALL, LARGE))
    check(taken, (SMALL, LARGE))
    assert len(results) == 2
    with record_selections(model) as taken:  # without data samples as ever
        model.backbone(torch.randn(2, 3, *PADDED))
    assert all(selection.num_keep == [num_keep(0.5, selection.keep_mask.shape[1])] * 2 for _, selection in taken)


def test_segmenter_test_step():
    """mmseg's preprocessor takes pictures of one size in evaluation, and pads them."""
    model = build_model(SEGMENTER)
    with record_selections(model) as taken:
        results = model.test_step(pictures(SEGMENTER, SMALL, SMALL))
    check(taken, (SMALL, SMALL), padded=(96, 128))
    assert [result.pred_sem_seg.shape for result in results] == [SMALL, SMALL]


def test_sliding_windows_count_everything():
    """They are crops of the padded picture."""
    model = build_model(SEGMENTER)
    model.test_cfg.update(mode="slide", crop_size=(64, 64), stride=(32, 32))
    with record_selections(model) as taken:
        model.test_step(pictures(SEGMENTER, SMALL))
    assert len(taken) > 10
    assert all(selection.num_keep == [num_keep(0.5, selection.keep_mask.shape[1])] for _, selection in taken)


def test_an_image_is_the_same_alone_and_in_a_padded_batch():
    """As far as the dense network lets it: the same choices here, since the stem sees no border."""
    model = build_model(DETECTOR)
    both = pictures(DETECTOR, SMALL, LARGE)
    alone = {key: value[:1] for key, value in both.items()}
    with record_selections(model) as mixed:
        model.test_step(copy.deepcopy(both))
    with record_selections(model) as single:
        model.test_step(copy.deepcopy(alone))
    counts = [selection.num_keep[0] for _, selection in mixed]
    assert counts == [selection.num_keep[0] for _, selection in single] and len(set(counts)) > 2


def test_focus_leaves_padding_out():
    model = build_model(DETECTOR, keep_ratio=0.9999)  # of so few locations that is all
    batch = pictures(DETECTOR, SMALL, LARGE)
    each = [dict(inputs=image, data_samples=sample) for image, sample in zip(*batch.values(), strict=True)]
    assert object_focus(model, each) == dict(inside=1.0, outside=1.0)


def test_twice_is_once_and_wrappers_are_looked_through():
    model = build_plain(DETECTOR).eval()

    class TTA(BaseTTAModel):
        def merge_preds(self, data_samples_list):
            return data_samples_list

    for _ in range(2):
        mmsparse.ignore_padding(TTA(model))
    hook, runner = SparsityHook(), SimpleNamespace(model=model)
    hook.before_val(runner)
    hook.before_test(runner)
    assert len(model._forward_pre_hooks) == len(model._forward_hooks) == len(model.backbone._forward_pre_hooks) == 1
    with record_selections(model) as taken:
        TTA(model).test_step({key: [value] for key, value in pictures(DETECTOR, SMALL, LARGE).items()})
    check(taken, (SMALL, LARGE))
    hook.before_test(SimpleNamespace(model=torch.nn.Linear(1, 1)))  # a dense twin with the same hooks
    with pytest.raises(ValueError, match="ignore_padding: Linear has no dynamic part"):
        mmsparse.ignore_padding(torch.nn.Linear(1, 1))


def test_it_is_over_when_the_forward_is(monkeypatch):
    model = build_model(DETECTOR)
    area = model.backbone.router.area

    def fail(*_):
        assert area.on((16, 20), torch.zeros(2)) is not None
        raise KeyError("in the head")

    monkeypatch.setattr(model.bbox_head, "forward_single", fail)
    with pytest.raises(KeyError):
        model.test_step(pictures(DETECTOR, SMALL, LARGE))
    assert area.on((16, 20), torch.zeros(2)) is None


def test_copies_watch_for_themselves():
    model = build_model(DETECTOR)
    twin = copy.deepcopy(model)
    assert twin.backbone.router.area is twin.neck.router.area is not model.backbone.router.area
    with record_selections(twin) as taken:
        twin.test_step(pictures(DETECTOR, SMALL, LARGE))
    check(taken, (SMALL, LARGE))
    assert list(model.state_dict()) == list(build_plain(DETECTOR).state_dict())
    assert len(find_decisions(model)) == len(taken)
