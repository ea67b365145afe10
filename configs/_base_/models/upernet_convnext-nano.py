# A segmenter whose head does most of the arithmetic, as in real ones, and small enough for two CPU cores.
_base_ = "./fpn_convnext-atto.py"
norm_cfg = dict(type="GN", num_groups=8, requires_grad=True)
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, depths=[1, 2, 2], channels=[32, 64, 128]),
        out_indices=[0, 1, 2],
        init_cfg=dict(  # a pretrained backbone, as in real ones: from scratch this takes much longer
            _delete_=True,
            type="Pretrained",
            checkpoint="work_dirs/atss_convnext-nano_scenes/iter_1200.pth",
            prefix="backbone.",
        ),
    ),
    neck=None,
    decode_head=dict(
        _delete_=True,
        type="UPerHead",
        in_channels=[32, 64, 128],
        in_index=[0, 1, 2],
        pool_scales=(1, 2, 3),
        channels=32,
        dropout_ratio=0.0,
        num_classes=9,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(  # objects are an eighth of the pixels; unweighted, it takes long to see more than background
            type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0, class_weight=[0.15] + [1.0] * 8
        ),
    ),
)
