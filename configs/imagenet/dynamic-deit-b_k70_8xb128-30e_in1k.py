_base_ = "./deit-b_8xb128-30e_in1k.py"
model = dict(
    backbone=dict(
        type="mmsparse.DynamicViT",
        sparsity=dict(
            keep_ratio=0.7,
            selector=dict(type="GumbelSelector"),
            scorer=dict(type="LocalGlobalScorer", eps=1e-5),
            cumulative=True,
            detach=False,
        ),
    )
)
optim_wrapper = dict(
    constructor="mmsparse.SparsityOptimWrapperConstructor",
    paramwise_cfg=dict(
        pretrained=("backbone", "head"),
        backbone_mult=0.01,
        freeze_epochs=5,
        # as in the released code: these two never change
        custom_keys=dict(cls_token=dict(lr_mult=0.0), pos_embed=dict(lr_mult=0.0)),
    ),
)
custom_hooks = [
    dict(type="EMAHook", momentum=1e-4, priority="ABOVE_NORMAL"),
    dict(type="mmsparse.SparsityHook", loss_weight=5.0, anneal=None),
    dict(type="mmsparse.TeacherHook"),
]
