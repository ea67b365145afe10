# A dense segmenter with a plain ViT, small enough to learn on two CPU cores in minutes: what the search slims.
_base_ = [
    "../../../../configs/_base_/datasets/scenes_segmentation.py",
    "../../../../configs/_base_/default_runtime_seg.py",
    "../../../../configs/_base_/schedules/schedule_demo.py",
]
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(160, 160),
    ),
    backbone=dict(
        type="mmpretrain.VisionTransformer",
        arch=dict(embed_dims=128, num_layers=6, num_heads=4, feedforward_channels=256),
        img_size=160,
        patch_size=16,
        out_type="featmap",
    ),
    decode_head=dict(
        type="FCNHead",
        in_channels=128,
        channels=64,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=9,
        norm_cfg=dict(type="GN", num_groups=8, requires_grad=True),
        align_corners=False,
        # pictures are mostly background
        loss_decode=dict(type="CrossEntropyLoss", class_weight=[0.2] + [1.0] * 8),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
max_iters = 800
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=50, end=max_iters),
]
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=400, max_keep_ckpts=2),
)
log_processor = dict(by_epoch=False)
