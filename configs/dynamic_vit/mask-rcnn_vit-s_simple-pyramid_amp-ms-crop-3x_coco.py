_base_ = "./mask-rcnn_vit-b_simple-pyramid_amp-ms-crop-3x_coco.py"
model = dict(
    backbone=dict(
        arch="deit-small",
        init_cfg=dict(
            checkpoint="https://mmassets.onedl.ai/mmclassification/v0/deit/deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth",
        ),
    ),
    neck=dict(in_channels=384),
)
