_base_ = "./convnext-t_upernet_8xb2-amp-160k_ade20k-512x512.py"
model = dict(
    backbone=dict(type="mmsparse.DynamicConvNeXt", sparsity=dict(keep_ratio=0.7, places="every_stage")),
    decode_head=dict(type="mmsparse.DynamicUPerHead", sparsity=dict(keep_ratio=0.7)),
)
custom_hooks = [dict(type="mmsparse.SparsityHook")]
