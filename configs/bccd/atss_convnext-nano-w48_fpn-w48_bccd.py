_base_ = "./atss_convnext-nano_fpn_bccd.py"
model = dict(
    backbone=dict(arch=dict(depths=[1, 2, 2], channels=[24, 48, 96])),
    neck=dict(in_channels=[48, 96], out_channels=48),
    bbox_head=dict(in_channels=48, feat_channels=48),
)
