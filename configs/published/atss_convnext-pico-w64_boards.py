# The narrower rival: half of all widths.
_base_ = "./atss_convnext-pico-w128_boards.py"
model = dict(
    backbone=dict(arch=dict(channels=[32, 64, 80])),
    neck=dict(in_channels=[64, 80], out_channels=64),
    bbox_head=dict(in_channels=64, feat_channels=64),
)
