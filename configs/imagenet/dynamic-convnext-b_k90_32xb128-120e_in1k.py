_base_ = "./dynamic-convnext-b_k70_32xb128-120e_in1k.py"
model = dict(backbone=dict(sparsity=dict(keep_ratio=0.9)))
