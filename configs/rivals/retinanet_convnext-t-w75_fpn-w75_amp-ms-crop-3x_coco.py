_base_ = "../dynamic_convnext/retinanet_convnext-t_fpn_amp-ms-crop-3x_coco.py"
model = dict(
    backbone=dict(arch=dict(_delete_=True, depths=[3, 3, 9, 3], channels=[72, 144, 288, 576]), init_cfg=None),
    neck=dict(in_channels=[144, 288, 576], out_channels=192),
    bbox_head=dict(in_channels=192, feat_channels=192),
)
