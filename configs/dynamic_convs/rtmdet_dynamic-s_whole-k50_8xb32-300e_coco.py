_base_ = "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py"
model = dict(
    backbone=dict(type="mmsparse.DynamicCSPNeXt", sparsity=dict(keep_ratio=0.5)),
    neck=dict(type="mmsparse.DynamicCSPNeXtPAFPN", sparsity=dict(keep_ratio=0.5)),
    bbox_head=dict(type="mmsparse.DynamicRTMDetSepBNHead", sparsity=dict(keep_ratio=0.5)),
)
custom_hooks = [*_base_.custom_hooks, dict(type="mmsparse.SparsityHook")]
