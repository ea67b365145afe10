_base_ = [
    "../_base_/models/fcn_vit-nano.py",
    "../_base_/datasets/scenes_segmentation.py",
    "../_base_/default_runtime_seg.py",
    "../_base_/schedules/schedule_demo.py",
]
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=200, max_keep_ckpts=2),
)
log_processor = dict(by_epoch=False)
