_base_ = "./atss_convnext-nano_fpn_boards.py"
model = dict(
    backbone=dict(arch=dict(depths=[1, 2, 2], channels=[64, 128, 256])),
    neck=dict(in_channels=[128, 256], out_channels=128),
    bbox_head=dict(in_channels=128, feat_channels=128),
)
