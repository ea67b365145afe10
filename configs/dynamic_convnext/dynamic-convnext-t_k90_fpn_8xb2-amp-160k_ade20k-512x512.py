_base_ = "./convnext-t_fpn_8xb2-amp-160k_ade20k-512x512.py"
model = dict(backbone=dict(type="mmsparse.DynamicConvNeXt", sparsity=dict(keep_ratio=0.9)))
custom_hooks = [dict(type="mmsparse.SparsityHook")]
