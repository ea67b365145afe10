_base_ = "./dynamic-convnext-t_k70_32xb128-120e_in1k.py"
model = dict(backbone=dict(arch="base", drop_path_rate=0.5), head=dict(in_channels=1024))
load_from = "https://mmassets.onedl.ai/mmclassification/v0/convnext/convnext-base_32xb128_in1k_20221207-fbdb5eb9.pth"
