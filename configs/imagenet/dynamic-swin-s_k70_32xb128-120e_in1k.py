_base_ = "./dynamic-swin-t_k70_32xb128-120e_in1k.py"
model = dict(backbone=dict(depths=[2, 2, 18, 2]))
load_from = (
    "https://mmassets.onedl.ai/mmclassification/v0/swin-transformer/convert/swin_small_patch4_window7_224-cc7a01c9.pth"
)
