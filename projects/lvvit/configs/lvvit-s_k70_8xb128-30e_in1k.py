# LV-ViT-S, three places that keep 0.7, 0.49 and 0.343 of the tokens.
_base_ = "../../../configs/imagenet/deit-s_8xb128-30e_in1k.py"
custom_imports = dict(imports=["projects.lvvit"], allow_failed_imports=False)
load_from = "work_dirs/lvvit-s.pth"  # converted: python -m projects.lvvit.convert
model = dict(
    backbone=dict(
        _delete_=True,
        type="mmsparse.LVViT",
        arch="small",
        img_size=224,
        out_type="raw",
        sparsity=dict(
            keep_ratio=0.7,
            selector=dict(type="GumbelSelector"),
            scorer=dict(type="LocalGlobalScorer", eps=1e-5),
            cumulative=True,
            detach=False,
        ),
    ),
    head=dict(type="mmsparse.TokenLabelHead"),
)
optim_wrapper = dict(
    constructor="mmsparse.SparsityOptimWrapperConstructor",
    paramwise_cfg=dict(
        pretrained=("backbone", "head"),
        backbone_mult=0.01,
        freeze_epochs=5,
        custom_keys=dict(cls_token=dict(lr_mult=0.0), pos_embed=dict(lr_mult=0.0)),
    ),
)
custom_hooks = [
    dict(type="EMAHook", momentum=1e-4, priority="ABOVE_NORMAL"),
    dict(type="mmsparse.SparsityHook", loss_weight=2.0, anneal=None),
    dict(type="mmsparse.TeacherHook"),
]
