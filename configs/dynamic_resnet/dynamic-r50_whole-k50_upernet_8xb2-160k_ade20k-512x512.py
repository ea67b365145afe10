_base_ = "./r50_upernet_8xb2-160k_ade20k-512x512.py"
model = dict(
    backbone=dict(type="mmsparse.DynamicResNetV1c", deep_stem=False, sparsity=dict(keep_ratio=0.5)),
    decode_head=dict(type="mmsparse.DynamicUPerHead", sparsity=dict(keep_ratio=0.5)),
)
custom_hooks = [dict(type="mmsparse.SparsityHook")]
