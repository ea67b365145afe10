_base_ = "./convnext-nano_upernet_camvid.py"
model = dict(
    backbone=dict(arch=dict(depths=[1, 2, 2], channels=[24, 48, 96])),
    decode_head=dict(in_channels=[24, 48, 96], channels=24),
)
