# DeiT-S as it was trained: tokens are sampled in every block from the fourth on, at most as many as there are.
_base_ = "../../../configs/imagenet/deit-s_8xb128-30e_in1k.py"
custom_imports = dict(imports=["projects.ats"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type="mmsparse.DynamicViT",
        sparsity=dict(
            places=[3, 4, 5, 6, 7, 8, 9, 10, 11],
            keep_ratio=[0.999] * 9,
            scorer=dict(type="ValueAttentionScorer"),
            selector=dict(type="InverseSelector"),
            cumulative=True,
            keys="entering",
        ),
    )
)
custom_hooks = [
    dict(type="EMAHook", momentum=1e-4, priority="ABOVE_NORMAL"),
    dict(type="mmsparse.SparsityHook", loss_weight=0.0, anneal=None),
]
