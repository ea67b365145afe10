# A detector whose neck and head do most of the arithmetic, as in real ones, and small enough for two CPU cores.
_base_ = "./atss_convnext-mini.py"
norm_cfg = dict(type="GN", num_groups=8, requires_grad=True)
model = dict(
    backbone=dict(
        arch=dict(depths=[1, 2, 2], channels=[32, 64, 128]),
        init_cfg=dict(  # a pretrained backbone, as in real ones: from scratch this takes much longer
            _delete_=True,
            type="Pretrained",
            checkpoint="work_dirs/atss_convnext-nano_scenes/iter_1200.pth",
            prefix="backbone.",
        ),
    ),
    neck=dict(_delete_=True, type="FPN", in_channels=[64, 128], out_channels=64, norm_cfg=norm_cfg, num_outs=2),
    bbox_head=dict(stacked_convs=4),
)
