# UPerNet behind a dense Swin-T, for the 150 classes of ADE20K
_base_ = "./upernet_convnext.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="mmseg.SwinTransformer",
        embed_dims=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        drop_path_rate=0.3,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/swin/"
            "swin_tiny_patch4_window7_224_20220317-1cdeb081.pth",
        ),
    ),
    test_cfg=dict(_delete_=True, mode="whole"),
)
