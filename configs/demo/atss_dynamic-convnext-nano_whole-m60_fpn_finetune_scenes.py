# From the trained dense detector to one of 55 % of its arithmetic: backbone, neck and head are routed. Everything kept
# learns the labels in the same step, and teaches the routed pass.
_base_ = "./atss_convnext-nano_fpn_scenes.py"

load_from = "work_dirs/atss_convnext-nano_fpn_scenes_on/iter_2000.pth"  # see README.md
model = dict(
    backbone=dict(
        type="mmsparse.DynamicConvNeXt",
        init_cfg=None,
        sparsity=dict(
            places=[(0, 0), (1, 0), (2, 0)],
            keep_ratio=[0.8] * 3,
            scorer=dict(type="PeakScorer", hidden=16),  # as wide as so narrow a network, it would cost too much
        ),
    ),
    neck=dict(type="mmsparse.DynamicFPN", sparsity=dict(keep_ratio=0.5, tile=1)),
    bbox_head=dict(type="mmsparse.DynamicATSSHead", sparsity=dict(keep_ratio=0.22, tile=1)),
)
custom_hooks = [dict(type="mmsparse.SparsityHook"), dict(type="mmsparse.InPlaceHook")]
max_iters = 3000
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=50, end=max_iters),
]
