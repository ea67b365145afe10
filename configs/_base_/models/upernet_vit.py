# UPerNet behind a dense ViT-B (DeiT), for the 150 classes of ADE20K
_base_ = "./upernet_convnext.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="mmpretrain.VisionTransformer",
        arch="deit-base",
        img_size=512,
        out_indices=[2, 5, 8, 11],
        out_type="featmap",
        drop_path_rate=0.1,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://mmassets.onedl.ai/mmclassification/v0/deit/deit-base_pt-16xb64_in1k_20220216-db63c16c.pth",
            prefix="backbone.",
        ),
    ),
    neck=dict(type="MultiLevelNeck", in_channels=[768, 768, 768, 768], out_channels=768, scales=[4, 2, 1, 0.5]),
    decode_head=dict(in_channels=[768, 768, 768, 768]),
    auxiliary_head=dict(in_channels=768, in_index=3),
    test_cfg=dict(_delete_=True, mode="whole"),
)
