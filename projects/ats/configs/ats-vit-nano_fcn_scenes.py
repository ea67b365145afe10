# The trained dense segmenter, which samples its tokens from the third block on.
_base_ = "../../../configs/demo/vit-nano_fcn_scenes.py"
custom_imports = dict(imports=["projects.ats"], allow_failed_imports=False)
load_from = "work_dirs/vit-nano_fcn_scenes/iter_1200.pth"
model = dict(
    backbone=dict(
        type="mmsparse.DynamicViT",
        sparsity=dict(
            places=[2, 3, 4, 5],
            keep_ratio=[0.999, 0.8, 0.65, 0.5],
            scorer=dict(type="ValueAttentionScorer"),
            selector=dict(type="InverseSelector"),
            cumulative=True,
            keys="entering",
        ),
    )
)
custom_hooks = [dict(type="mmsparse.SparsityHook", loss_weight=0.0, anneal=None)]
max_iters = 1000
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=50, end=max_iters),
]
