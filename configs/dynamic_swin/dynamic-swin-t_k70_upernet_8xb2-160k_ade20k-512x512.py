_base_ = "./swin-t_upernet_8xb2-160k_ade20k-512x512.py"
model = dict(backbone=dict(type="mmsparse.DynamicSwin", sparsity=dict(keep_ratio=0.7)))
custom_hooks = [dict(type="mmsparse.SparsityHook")]
