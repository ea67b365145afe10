# From the trained dense detector to one of 41 % of its arithmetic.
_base_ = "./atss_convnext-nano_fpn_deeppcb.py"

load_from = "work_dirs/atss_convnext-nano_fpn_deeppcb/iter_3200.pth"
model = dict(
    backbone=dict(
        type="mmsparse.DynamicConvNeXt",
        init_cfg=None,
        sparsity=dict(
            keep_ratio=[0.5, 0.4, 0.4],
            places=[(0, 0), (1, 0), (2, 0)],
            scorer=dict(type="LocalGlobalScorer", hidden=16),
        ),
    ),
    # The coarse level has a fifth of the locations, in few tiles: by `mmsparse choice` it needs twice the ratio.
    neck=dict(type="mmsparse.DynamicFPN", sparsity=dict(keep_ratio=[0.2, 0.45])),
    bbox_head=dict(type="mmsparse.DynamicATSSHead", sparsity=dict(keep_ratio=[0.2, 0.5], coarse=True)),
)
custom_hooks = [dict(type="mmsparse.SparsityHook")]
optim_wrapper = dict(  # at the full rate the trained dense network is forgotten, and nothing is gained
    constructor="mmsparse.SparsityOptimWrapperConstructor",
    paramwise_cfg=dict(pretrained=("backbone", "neck", "bbox_head"), backbone_mult=0.1),
)
max_iters = 1200
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=50, end=max_iters),
]
