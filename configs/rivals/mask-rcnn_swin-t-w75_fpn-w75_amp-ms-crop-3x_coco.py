_base_ = "../dynamic_swin/mask-rcnn_swin-t_fpn_amp-ms-crop-3x_coco.py"
model = dict(
    backbone=dict(embed_dims=72, init_cfg=None),
    neck=dict(in_channels=[72, 144, 288, 576], out_channels=192),
    rpn_head=dict(in_channels=192, feat_channels=192),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=192),
        bbox_head=dict(in_channels=192),
        mask_roi_extractor=dict(out_channels=192),
        mask_head=dict(in_channels=192, conv_out_channels=192),
    ),
)
