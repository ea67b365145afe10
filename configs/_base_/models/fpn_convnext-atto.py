# A segmenter small enough to learn on two CPU cores in minutes.
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
        size=(160, 160),
    ),
    backbone=dict(
        type="mmpretrain.ConvNeXt",
        arch="atto",
        out_indices=[0, 1, 2, 3],
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
        init_cfg=None,  # torch's wider initial weights learn faster than std 0.02 in a network this narrow
    ),
    neck=dict(type="FPN", in_channels=[40, 80, 160, 320], out_channels=64, num_outs=4),
    decode_head=dict(
        type="FPNHead",
        in_channels=[64, 64, 64, 64],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=64,
        dropout_ratio=0.0,
        num_classes=9,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
