# A plain transformer with a light head, small enough for two CPU cores; its maps have stride 8.
norm_cfg = dict(type="GN", num_groups=8, requires_grad=True)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size_divisor=8,
    ),
    backbone=dict(
        type="mmpretrain.VisionTransformer",
        arch=dict(embed_dims=96, num_layers=6, num_heads=3, feedforward_channels=192),
        img_size=160,
        patch_size=8,
        out_type="featmap",
        final_norm=True,
    ),
    decode_head=dict(
        type="FCNHead",
        in_channels=96,
        in_index=0,
        channels=64,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=9,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, class_weight=[0.15] + [1.0] * 8),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
