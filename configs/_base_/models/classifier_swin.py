# A classifier with a dense Swin-T. The class is ours without `sparsity`: mmdet's own returns a list, which mmpretrain's
# neck refuses. Its parameters have the names of mmpretrain's class.
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="mmsparse.DynamicSwin",
        embed_dims=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        shift_one_window=False,  # as in the original release
        out_indices=(3,),
        drop_path_rate=0.2,
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        in_channels=768,
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
    ),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)
