_base_ = "./convnext-t_fpn_8xb2-amp-160k_ade20k-512x512.py"
model = dict(
    backbone=dict(type="mmsparse.DynamicConvNeXt", sparsity=dict(keep_ratio=0.7, places="every_stage")),
    neck=dict(type="mmsparse.DynamicFPN", sparsity=dict(keep_ratio=0.7)),
    decode_head=dict(type="mmsparse.DynamicFPNHead", sparsity=dict(keep_ratio=0.7)),
)
custom_hooks = [dict(type="mmsparse.SparsityHook")]
