_base_ = "mmseg::hrnet/fcn_hr18s_4xb4-80k_ade20k-512x512.py"
model = dict(backbone=dict(type="mmsparse.DynamicSegHRNet", sparsity=dict(keep_ratio=0.5)))
custom_hooks = [dict(type="mmsparse.SparsityHook")]
