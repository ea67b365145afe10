# From the trained dense segmenter to one of 60 % of its arithmetic: backbone and head are routed. Everything kept
# learns the labels in the same step, and teaches the routed pass.
_base_ = "./convnext-nano_upernet_camvid.py"

load_from = "work_dirs/convnext-nano_upernet_camvid/iter_3200.pth"
model = dict(
    backbone=dict(
        type="mmsparse.DynamicConvNeXt",
        init_cfg=None,
        sparsity=dict(
            places=[(0, 0), (1, 0), (2, 0)],
            keep_ratio=[0.54] * 3,
            scorer=dict(type="PeakScorer", hidden=16),
        ),
    ),
    decode_head=dict(type="mmsparse.DynamicUPerHead", sparsity=dict(keep_ratio=0.25, tile=2)),
)
custom_hooks = [dict(type="mmsparse.SparsityHook"), dict(type="mmsparse.InPlaceHook")]
max_iters = 1200
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=50, end=max_iters),
]
