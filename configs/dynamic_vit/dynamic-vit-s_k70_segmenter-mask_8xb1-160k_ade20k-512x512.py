_base_ = "./vit-s_segmenter-mask_8xb1-160k_ade20k-512x512.py"
model = dict(backbone=dict(type="mmsparse.DynamicViT", sparsity=dict(keep_ratio=0.7)))
custom_hooks = [dict(type="mmsparse.SparsityHook", loss_weight=2.0)]
