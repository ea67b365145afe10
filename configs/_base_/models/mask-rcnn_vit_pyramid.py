# Mask R-CNN behind a dense ViT-B with windows, four global blocks and ViTDet's simple pyramid
_base_ = "./mask-rcnn_convnext_fpn.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="mmsparse.DynamicViT",  # dense without `sparsity`; the stock class has no windows
        arch="deit-base",
        window_size=14,
        global_attn_indexes=[2, 5, 8, 11],
        with_cls_token=False,
        out_type="featmap",
        drop_path_rate=0.1,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://mmassets.onedl.ai/mmclassification/v0/deit/deit-base_pt-16xb64_in1k_20220216-db63c16c.pth",
            prefix="backbone.",
        ),
    ),
    neck=dict(_delete_=True, type="mmsparse.SimpleFeaturePyramid", in_channels=768, out_channels=256, num_outs=5),
)
