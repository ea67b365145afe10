# From the trained dense detector with 128 channels to one of 35 % of its arithmetic.
_base_ = "./atss_convnext-nano-w128_fpn-w128_boards.py"

load_from = "work_dirs/atss_convnext-nano-w128_fpn-w128_boards/iter_2000.pth"
model = dict(
    backbone=dict(
        type="mmsparse.DynamicConvNeXt",
        init_cfg=None,
        sparsity=dict(
            keep_ratio=[0.15, 0.1],
            places=[(1, 0), (2, 0)],
            scorer=dict(type="LocalGlobalScorer", hidden=16),
        ),
    ),
    # The neck, a twelfth of the arithmetic, stays dense: what it would choose is hard to see before it.
    bbox_head=dict(type="mmsparse.DynamicATSSHead", sparsity=dict(keep_ratio=0.15, coarse=True)),
)
custom_hooks = [dict(type="mmsparse.SparsityHook", score_weight=1.0)]
optim_wrapper = dict(  # at the full rate: the dense network had not learned all that it can
    constructor="mmsparse.SparsityOptimWrapperConstructor",
    paramwise_cfg=dict(pretrained=("backbone", "neck", "bbox_head"), backbone_mult=1.0),
)
max_iters = 1000
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=50, end=max_iters),
]
