_base_ = "./swin-t_32xb128-120e_in1k.py"
model = dict(
    backbone=dict(
        type="mmsparse.DynamicSwin",
        sparsity=dict(
            keep_ratio=0.7,
            selector=dict(type="GumbelSelector"),
            scorer=dict(type="LocalGlobalScorer", eps=1e-5),
            fast_path=dict(type="LinearFastPath", eps=1e-5),
            detach=False,
        ),
    )
)
optim_wrapper = dict(
    constructor="mmsparse.SparsityOptimWrapperConstructor",
    paramwise_cfg=dict(pretrained=("backbone", "head"), backbone_mult=0.2, freeze_epochs=5),
)
custom_hooks = [
    dict(type="EMAHook", momentum=1e-4, priority="ABOVE_NORMAL"),
    dict(type="mmsparse.SparsityHook", loss_weight=10.0, anneal=None),
    dict(type="mmsparse.TeacherHook"),
]
