_base_ = "./vit-b_upernet_8xb2-160k_ade20k-512x512.py"
model = dict(
    backbone=dict(
        arch="deit-small",
        init_cfg=dict(
            checkpoint="https://mmassets.onedl.ai/mmclassification/v0/deit/deit-small_pt-4xb256_in1k_20220218-9425b9bb.pth",
        ),
    ),
    neck=dict(in_channels=[384, 384, 384, 384], out_channels=384),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)
