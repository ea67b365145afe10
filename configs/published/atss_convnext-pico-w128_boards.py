# Wide and with few parameters: its weights are in the repository (docs/model_zoo.md).
_base_ = "../boards/atss_convnext-nano_fpn_boards.py"
model = dict(
    backbone=dict(arch=dict(depths=[1, 2, 1], channels=[64, 128, 160])),
    neck=dict(
        _delete_=True,
        type="ChannelMapper",
        in_channels=[128, 160],
        out_channels=128,
        kernel_size=1,
        norm_cfg=dict(type="GN", num_groups=8, requires_grad=True),
        act_cfg=None,
        num_outs=2,
    ),
    bbox_head=dict(in_channels=128, feat_channels=128, stacked_convs=3),
)
