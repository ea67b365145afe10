# A classifier with a dense DeiT-S
model = dict(
    type="ImageClassifier",
    backbone=dict(type="mmpretrain.VisionTransformer", arch="deit-small", img_size=224, patch_size=16),
    head=dict(
        type="VisionTransformerClsHead",
        num_classes=1000,
        in_channels=384,
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
    ),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)
