# LV-ViT-S, three places that keep 0.7, 0.49 and 0.343 of the tokens, by DynamicViT's recipe.
_base_ = "../../../configs/imagenet/dynamic-deit-s_k70_8xb128-30e_in1k.py"
custom_imports = dict(imports=["projects.lvvit"], allow_failed_imports=False)
load_from = "work_dirs/lvvit-s.pth"  # converted: python -m projects.lvvit.convert
model = dict(
    backbone=dict(
        _delete_=True,
        type="mmsparse.LVViT",
        arch="small",
        img_size=224,
        out_type="raw",
        sparsity=_base_.model.backbone.sparsity,
    ),
    head=dict(type="mmsparse.TokenLabelHead"),
)
