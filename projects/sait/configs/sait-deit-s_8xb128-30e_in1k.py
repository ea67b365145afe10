# Dense epochs and sparse ones take turns; tokens are dropped before the fourth block.
_base_ = "../../../configs/imagenet/deit-s_8xb128-30e_in1k.py"
custom_imports = dict(imports=["projects.sait"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type="mmsparse.DynamicViT",
        sparsity=dict(
            places=[3],
            keep_ratio=[0.5],
            scorer=dict(type="TokenImportanceScorer"),
            selector=dict(type="ImportanceSelector"),
            cumulative=True,
            detach=False,
        ),
    )
)
custom_hooks = [
    dict(type="EMAHook", momentum=1e-4, priority="ABOVE_NORMAL"),
    dict(type="mmsparse.SparsityHook", anneal=None),
    dict(type="mmsparse.ElasticHook", keep_ratios=[1.0, 0.5]),
    dict(type="mmsparse.TokenDistillHook"),
]
