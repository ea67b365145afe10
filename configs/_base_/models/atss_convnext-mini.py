# A detector small enough to learn on two CPU cores in minutes.
model = dict(
    type="ATSS",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type="mmpretrain.ConvNeXt",
        arch=dict(depths=[2, 4, 2], channels=[40, 80, 160]),
        out_indices=[1, 2],  # a norm of stage 0 that nobody reads would get no gradient
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
        init_cfg=None,  # torch's wider initial weights learn faster than std 0.02 in a network this narrow
    ),
    # No top-down path: from scratch, classes are learned much sooner on the maps as they are.
    neck=dict(
        type="ChannelMapper",
        in_channels=[80, 160],
        out_channels=64,
        kernel_size=1,
        norm_cfg=dict(type="GN", num_groups=8, requires_grad=True),
        act_cfg=None,
        num_outs=2,
    ),
    bbox_head=dict(
        type="ATSSHead",
        num_classes=8,
        in_channels=64,
        feat_channels=64,
        stacked_convs=0,  # what the network makes of a picture, it makes in its backbone
        norm_cfg=dict(type="GN", num_groups=8, requires_grad=True),
        anchor_generator=dict(
            type="AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=4,
            scales_per_octave=1,
            strides=[8, 16],
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=1.5, alpha=0.5, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
    ),
    train_cfg=dict(assigner=dict(type="ATSSAssigner", topk=9), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(
        nms_pre=300,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type="nms", iou_threshold=0.6),
        max_per_img=50,
    ),
)
