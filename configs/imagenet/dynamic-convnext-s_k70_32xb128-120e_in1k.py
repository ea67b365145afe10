_base_ = "./dynamic-convnext-t_k70_32xb128-120e_in1k.py"
model = dict(backbone=dict(arch="small"))
load_from = "https://mmassets.onedl.ai/mmclassification/v0/convnext/convnext-small_32xb128_in1k_20221207-4ab7052c.pth"
