_base_ = "./atss_convnext-nano_fpn_boards.py"
model = dict(
    backbone=dict(arch=dict(depths=[1, 2, 2], channels=[40, 80, 160])),
    neck=dict(in_channels=[80, 160], out_channels=80),
    bbox_head=dict(in_channels=80, feat_channels=80),
)
