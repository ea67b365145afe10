# A classifier with a dense ConvNeXt-T
model = dict(
    type="ImageClassifier",
    backbone=dict(type="mmpretrain.ConvNeXt", arch="tiny", drop_path_rate=0.2),
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        in_channels=768,
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
    ),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)
