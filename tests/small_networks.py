"""A detector and a segmenter that are routed throughout, and generated batches for them."""

import torch
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData

from mmsparse.cli.building import random_pictures

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
