# Every block from the fifth on decides anew; counts as in IdleViT at 0.7.
_base_ = "../../../configs/imagenet/deit-s_8xb128-30e_in1k.py"
custom_imports = dict(imports=["projects.tpc"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type="mmsparse.TPCViT",
        sparsity=dict(
            places=[4, 5, 6, 7, 8, 9, 10, 11],
            keep_ratio=[0.7, 0.7, 0.7, 0.49, 0.49, 0.49, 0.343, 0.343],
            scorer=dict(type="PropagationScorer"),
            selector=dict(type="GumbelSelector"),
            share_scorer=True,
        ),
    )
)
custom_hooks = [
    dict(type="EMAHook", momentum=1e-4, priority="ABOVE_NORMAL"),
    dict(type="mmsparse.SparsityHook", loss_weight=2.0, anneal=None),
    dict(type="mmsparse.SmoothDecisionsHook", weight=1.0),
    dict(type="mmsparse.TeacherHook"),
]
