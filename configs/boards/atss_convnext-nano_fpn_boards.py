_base_ = [
    "../_base_/models/atss_convnext-nano_fpn.py",
    "../_base_/datasets/boards_detection.py",
    "../_base_/default_runtime_det.py",
    "../_base_/schedules/schedule_demo.py",
]
model = dict(backbone=dict(init_cfg=None), bbox_head=dict(num_classes=6))
max_iters = 2000
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=50, end=max_iters),
]
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=200, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
