# From the trained dense detector to one of 60 % of its arithmetic; everything kept learns in the same step.
_base_ = "./atss_convnext-nano_fpn_bccd.py"

load_from = "work_dirs/atss_convnext-nano_fpn_bccd/iter_3200.pth"
model = dict(
    backbone=dict(
        type="mmsparse.DynamicConvNeXt",
        init_cfg=None,
        sparsity=dict(
            keep_ratio=[0.66] * 3,
            places=[(0, 0), (1, 0), (2, 0)],
            scorer=dict(type="PeakScorer", hidden=16),
        ),
    ),
    neck=dict(type="mmsparse.DynamicFPN", sparsity=dict(keep_ratio=0.55)),
    bbox_head=dict(type="mmsparse.DynamicATSSHead", sparsity=dict(keep_ratio=0.44)),
)
custom_hooks = [dict(type="mmsparse.SparsityHook"), dict(type="mmsparse.InPlaceHook")]
max_iters = 1200
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=50, end=max_iters),
]
