# From the trained dense segmenter to one that skips heads, layers and tokens as each picture needs.
_base_ = "../../../configs/demo/vit-nano_fcn_scenes.py"
custom_imports = dict(imports=["projects.adavit"], allow_failed_imports=False)
load_from = "work_dirs/vit-nano_fcn_scenes/iter_1200.pth"
model = dict(
    backbone=dict(
        type="mmsparse.AdaViT",
        policy=dict(heads=0.7, layers=0.8),
        sparsity=dict(
            places=[2, 3, 4, 5],
            keep_ratio=[0.7, 0.7, 0.6, 0.5],
            scorer=dict(type="LinearScorer"),
            selector=dict(type="ThresholdSelector", tau=5.0),
            detach=False,
        ),
    )
)
custom_hooks = [
    dict(type="mmsparse.SparsityHook", loss_weight=2.0, per_image=False),
    dict(type="mmsparse.UsageHook"),
]
optim_wrapper = dict(
    constructor="mmsparse.SparsityOptimWrapperConstructor",
    paramwise_cfg=dict(backbone_mult=0.2, pretrained=("backbone", "decode_head")),
)
max_iters = 1000
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=50, end=max_iters),
]
