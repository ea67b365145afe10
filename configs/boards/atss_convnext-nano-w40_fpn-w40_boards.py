_base_ = "./atss_convnext-nano_fpn_boards.py"
model = dict(
    backbone=dict(arch=dict(depths=[1, 2, 2], channels=[20, 40, 80])),
    neck=dict(in_channels=[40, 80], out_channels=40),
    bbox_head=dict(in_channels=40, feat_channels=40),
)
