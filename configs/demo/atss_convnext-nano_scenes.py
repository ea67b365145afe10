# Where the backbones of the networks with larger necks and heads come from, as real ones come from ImageNet.
_base_ = "./atss_convnext-mini_scenes.py"
model = dict(
    backbone=dict(arch=dict(depths=[1, 2, 2], channels=[32, 64, 128])),
    neck=dict(in_channels=[64, 128]),
)
