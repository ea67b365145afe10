_base_ = "./dynamic-swin-t_k70_32xb128-120e_in1k.py"
model = dict(
    backbone=dict(depths=[2, 2, 18, 2], embed_dims=128, num_heads=[4, 8, 16, 32], drop_path_rate=0.5),
    head=dict(in_channels=1024),
)
load_from = (
    "https://mmassets.onedl.ai/mmclassification/v0/swin-transformer/convert/swin_base_patch4_window7_224-4670dd19.pth"
)
