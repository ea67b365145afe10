custom_hooks = [
    dict(
        anneal=[
            0.0,
            1.0,
        ],
        score_weight=1.0,
        type="mmsparse.SparsityHook",
    ),
    dict(
        levels=(
            0,
            1,
        ),
        module="neck",
        type="mmsparse.TeacherHook",
    ),
]
data_root = "data/scenes/"
dataset_type = "CocoDataset"
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=20, max_keep_ckpts=2, type="CheckpointHook"),
    logger=dict(interval=1, type="LoggerHook"),
    param_scheduler=dict(type="ParamSchedulerHook"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    timer=dict(type="IterTimerHook"),
    visualization=dict(type="DetVisualizationHook"),
)
default_scope = "mmdet"
env_cfg = dict(
    cudnn_benchmark=False, dist_cfg=dict(backend="nccl"), mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0)
)
load_from = "first.pth"
log_level = "INFO"
log_processor = dict(by_epoch=False, type="LogProcessor", window_size=1)
max_iters = 24
metainfo = dict(
    classes=(
        "striped-disc",
        "plain-disc",
        "striped-star",
        "plain-star",
        "striped-cross",
        "plain-cross",
        "striped-ring",
        "plain-ring",
    ),
    palette=[
        (
            220,
            20,
            60,
        ),
        (
            255,
            140,
            150,
        ),
        (
            0,
            0,
            200,
        ),
        (
            110,
            170,
            255,
        ),
        (
            0,
            130,
            0,
        ),
        (
            140,
            230,
            100,
        ),
        (
            190,
            120,
            0,
        ),
        (
            250,
            220,
            0,
        ),
    ],
)
model = dict(
    backbone=dict(
        arch=dict(
            channels=[
                4,
                8,
            ],
            depths=[
                1,
                1,
            ],
        ),
        gap_before_final_norm=False,
        init_cfg=None,
        layer_scale_init_value=1.0,
        out_indices=[
            0,
            1,
        ],
        sparsity=dict(
            keep_ratio=[
                0.8,
                0.6,
            ],
            places=[
                (
                    0,
                    0,
                ),
                (
                    1,
                    0,
                ),
            ],
            scorer=dict(hidden=4, type="LocalGlobalScorer"),
        ),
        type="mmsparse.DynamicConvNeXt",
    ),
    bbox_head=dict(
        anchor_generator=dict(
            octave_base_scale=4,
            ratios=[
                1.0,
            ],
            scales_per_octave=1,
            strides=[
                4,
                8,
            ],
            type="AnchorGenerator",
        ),
        bbox_coder=dict(
            target_means=[
                0.0,
                0.0,
                0.0,
                0.0,
            ],
            target_stds=[
                0.1,
                0.1,
                0.2,
                0.2,
            ],
            type="DeltaXYWHBBoxCoder",
        ),
        feat_channels=4,
        in_channels=4,
        loss_bbox=dict(loss_weight=2.0, type="GIoULoss"),
        loss_centerness=dict(loss_weight=1.0, type="CrossEntropyLoss", use_sigmoid=True),
        loss_cls=dict(alpha=0.5, gamma=1.5, loss_weight=1.0, type="FocalLoss", use_sigmoid=True),
        norm_cfg=dict(num_groups=2, requires_grad=True, type="GN"),
        num_classes=8,
        sparsity=dict(keep_ratio=0.4),
        stacked_convs=1,
        type="mmsparse.DynamicATSSHead",
    ),
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[
            123.675,
            116.28,
            103.53,
        ],
        pad_size_divisor=32,
        std=[
            58.395,
            57.12,
            57.375,
        ],
        type="DetDataPreprocessor",
    ),
    neck=dict(
        in_channels=[
            4,
            8,
        ],
        norm_cfg=dict(num_groups=2, requires_grad=True, type="GN"),
        num_outs=2,
        out_channels=4,
        sparsity=dict(keep_ratio=0.5, tile=1),
        type="mmsparse.DynamicFPN",
    ),
    test_cfg=dict(
        max_per_img=50, min_bbox_size=0, nms=dict(iou_threshold=0.6, type="nms"), nms_pre=300, score_thr=0.01
    ),
    train_cfg=dict(allowed_border=-1, assigner=dict(topk=9, type="ATSSAssigner"), debug=False, pos_weight=-1),
    type="ATSS",
)
norm_cfg = dict(num_groups=8, requires_grad=True, type="GN")
optim_wrapper = dict(
    clip_grad=dict(max_norm=5.0),
    constructor="mmsparse.SparsityOptimWrapperConstructor",
    optimizer=dict(lr=0.01, momentum=0.9, type="SGD", weight_decay=0.0001),
    paramwise_cfg=dict(backbone_mult=0.5, bias_decay_mult=0.0, freeze_iters=5, norm_decay_mult=0.0),
    type="OptimWrapper",
)
param_scheduler = [
    dict(begin=0, by_epoch=False, end=5, start_factor=0.05, type="LinearLR"),
    dict(begin=5, by_epoch=False, end=24, eta_min=0.001, type="CosineAnnealingLR"),
]
randomness = dict(seed=0)
resume = False
test_cfg = dict(type="TestLoop")
test_dataloader = dict(
    batch_size=8,
    dataset=dict(
        ann_file="annotations/val.json",
        data_prefix=dict(img="val/images/"),
        data_root="data/scenes/",
        metainfo=dict(
            classes=(
                "striped-disc",
                "plain-disc",
                "striped-star",
                "plain-star",
                "striped-cross",
                "plain-cross",
                "striped-ring",
                "plain-ring",
            ),
            palette=[
                (
                    220,
                    20,
                    60,
                ),
                (
                    255,
                    140,
                    150,
                ),
                (
                    0,
                    0,
                    200,
                ),
                (
                    110,
                    170,
                    255,
                ),
                (
                    0,
                    130,
                    0,
                ),
                (
                    140,
                    230,
                    100,
                ),
                (
                    190,
                    120,
                    0,
                ),
                (
                    250,
                    220,
                    0,
                ),
            ],
        ),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(
                keep_ratio=True,
                scale=(
                    160,
                    160,
                ),
                type="Resize",
            ),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(
                meta_keys=(
                    "img_id",
                    "img_path",
                    "ori_shape",
                    "img_shape",
                    "scale_factor",
                ),
                type="PackDetInputs",
            ),
        ],
        test_mode=True,
        type="CocoDataset",
    ),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=False, type="DefaultSampler"),
)
test_evaluator = dict(ann_file="data/scenes/annotations/val.json", metric="bbox", type="CocoMetric")
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        keep_ratio=True,
        scale=(
            160,
            160,
        ),
        type="Resize",
    ),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        meta_keys=(
            "img_id",
            "img_path",
            "ori_shape",
            "img_shape",
            "scale_factor",
        ),
        type="PackDetInputs",
    ),
]
train_cfg = dict(max_iters=24, type="IterBasedTrainLoop", val_interval=25)
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        ann_file="annotations/train.json",
        data_prefix=dict(img="train/images/"),
        data_root="data/scenes-12k/",
        metainfo=dict(
            classes=(
                "striped-disc",
                "plain-disc",
                "striped-star",
                "plain-star",
                "striped-cross",
                "plain-cross",
                "striped-ring",
                "plain-ring",
            ),
            palette=[
                (
                    220,
                    20,
                    60,
                ),
                (
                    255,
                    140,
                    150,
                ),
                (
                    0,
                    0,
                    200,
                ),
                (
                    110,
                    170,
                    255,
                ),
                (
                    0,
                    130,
                    0,
                ),
                (
                    140,
                    230,
                    100,
                ),
                (
                    190,
                    120,
                    0,
                ),
                (
                    250,
                    220,
                    0,
                ),
            ],
        ),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(
                keep_ratio=True,
                scale=(
                    160,
                    160,
                ),
                type="Resize",
            ),
            dict(type="PackDetInputs"),
        ],
        type="CocoDataset",
    ),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=True, type="InfiniteSampler"),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        keep_ratio=True,
        scale=(
            160,
            160,
        ),
        type="Resize",
    ),
    dict(type="PackDetInputs"),
]
val_cfg = dict(type="ValLoop")
val_dataloader = dict(
    batch_size=8,
    dataset=dict(
        ann_file="annotations/val.json",
        data_prefix=dict(img="val/images/"),
        data_root="data/scenes/",
        metainfo=dict(
            classes=(
                "striped-disc",
                "plain-disc",
                "striped-star",
                "plain-star",
                "striped-cross",
                "plain-cross",
                "striped-ring",
                "plain-ring",
            ),
            palette=[
                (
                    220,
                    20,
                    60,
                ),
                (
                    255,
                    140,
                    150,
                ),
                (
                    0,
                    0,
                    200,
                ),
                (
                    110,
                    170,
                    255,
                ),
                (
                    0,
                    130,
                    0,
                ),
                (
                    140,
                    230,
                    100,
                ),
                (
                    190,
                    120,
                    0,
                ),
                (
                    250,
                    220,
                    0,
                ),
            ],
        ),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(
                keep_ratio=True,
                scale=(
                    160,
                    160,
                ),
                type="Resize",
            ),
            dict(type="LoadAnnotations", with_bbox=True),
            dict(
                meta_keys=(
                    "img_id",
                    "img_path",
                    "ori_shape",
                    "img_shape",
                    "scale_factor",
                ),
                type="PackDetInputs",
            ),
        ],
        test_mode=True,
        type="CocoDataset",
    ),
    num_workers=1,
    persistent_workers=True,
    sampler=dict(shuffle=False, type="DefaultSampler"),
)
val_evaluator = dict(ann_file="data/scenes/annotations/val.json", metric="bbox", type="CocoMetric")
vis_backends = [
    dict(type="LocalVisBackend"),
]
visualizer = dict(
    name="visualizer",
    type="DetLocalVisualizer",
    vis_backends=[
        dict(type="LocalVisBackend"),
    ],
)
