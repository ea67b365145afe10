# Half of the heads, of the layers and of the tokens, from the second block on, as each picture needs.
_base_ = "../../../configs/imagenet/deit-s_8xb128-30e_in1k.py"
custom_imports = dict(imports=["projects.adavit"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type="mmsparse.AdaViT",
        policy=dict(heads=0.5, layers=0.5),
        sparsity=dict(
            places=[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
            keep_ratio=[0.5] * 11,
            scorer=dict(type="LinearScorer"),
            selector=dict(type="ThresholdSelector", tau=5.0),
            detach=False,
        ),
    )
)
optim_wrapper = dict(
    constructor="mmsparse.SparsityOptimWrapperConstructor",
    paramwise_cfg=dict(pretrained=("backbone", "head"), backbone_mult=0.1),
)
custom_hooks = [
    dict(type="EMAHook", momentum=1e-4, priority="ABOVE_NORMAL"),
    dict(type="mmsparse.SparsityHook", loss_weight=2.0, per_image=False),
    dict(type="mmsparse.UsageHook"),
    dict(type="mmsparse.TeacherHook"),
]
