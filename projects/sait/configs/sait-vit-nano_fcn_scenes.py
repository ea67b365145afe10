# From the trained dense segmenter to one that runs dense, at any count, or with a budget for each picture.
_base_ = "../../../configs/demo/vit-nano_fcn_scenes.py"
custom_imports = dict(imports=["projects.sait"], allow_failed_imports=False)
load_from = "work_dirs/vit-nano_fcn_scenes/iter_1200.pth"
model = dict(
    backbone=dict(
        type="mmsparse.DynamicViT",
        sparsity=dict(
            places=[2],
            keep_ratio=[0.5],
            scorer=dict(type="TokenImportanceScorer"),
            selector=dict(type="ImportanceSelector"),
            detach=False,  # the scores are the block's own attention, which the teacher's teaches
        ),
    )
)
custom_hooks = [
    dict(type="mmsparse.SparsityHook", anneal=None),
    dict(type="mmsparse.ElasticHook", keep_ratios=[1.0, 0.5], interval=250, by_epoch=False),  # 250 are an epoch
    dict(type="mmsparse.TokenDistillHook"),
]
max_iters = 1000
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=50, end=max_iters),
]
