_base_ = "../dynamic_convnext/convnext-t_upernet_8xb2-amp-160k_ade20k-512x512.py"
model = dict(
    backbone=dict(arch=dict(_delete_=True, depths=[3, 3, 9, 3], channels=[72, 144, 288, 576]), init_cfg=None),
    decode_head=dict(in_channels=[72, 144, 288, 576], channels=384),
    auxiliary_head=dict(in_channels=288, channels=192),
)
