# A dense segmenter with a plain ViT, small enough to learn on two CPU cores in minutes: what the search slims.
_base_ = [
    "../../../../configs/_base_/models/fcn_vit-nano.py",
    "../../../../configs/_base_/datasets/scenes_segmentation.py",
    "../../../../configs/_base_/default_runtime_seg.py",
    "../../../../configs/_base_/schedules/schedule_demo.py",
]
model = dict(
    data_preprocessor=dict(size_divisor=None, size=(160, 160)),
    backbone=dict(arch=dict(embed_dims=128, num_heads=4, feedforward_channels=256), patch_size=16),
    decode_head=dict(in_channels=128, loss_decode=dict(class_weight=[0.2] + [1.0] * 8)),
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
