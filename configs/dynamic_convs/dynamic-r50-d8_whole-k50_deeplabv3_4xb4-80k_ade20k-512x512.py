_base_ = "mmseg::deeplabv3/deeplabv3_r50-d8_4xb4-80k_ade20k-512x512.py"
model = dict(
    backbone=dict(type="mmsparse.DynamicResNetV1c", sparsity=dict(keep_ratio=0.5)),
    decode_head=dict(type="mmsparse.DynamicASPPHead", sparsity=dict(keep_ratio=0.5)),
)
custom_hooks = [dict(type="mmsparse.SparsityHook")]
