_base_ = "./mask-rcnn_swin-t_fpn_amp-ms-crop-3x_coco.py"
model = dict(
    backbone=dict(type="mmsparse.DynamicSwin", sparsity=dict(keep_ratio=0.5, places="every_stage")),
    neck=dict(type="mmsparse.DynamicFPN", sparsity=dict(keep_ratio=0.5)),
    rpn_head=dict(type="mmsparse.DynamicRPNHead", sparsity=dict(keep_ratio=0.5)),
)
custom_hooks = [dict(type="mmsparse.SparsityHook")]
