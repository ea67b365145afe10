_base_ = "./retinanet_r50_fpn_1x_coco.py"
model = dict(
    backbone=dict(type="mmsparse.DynamicResNet", sparsity=dict(keep_ratio=0.5)),
    neck=dict(type="mmsparse.DynamicFPN", sparsity=dict(keep_ratio=0.5)),
    bbox_head=dict(type="mmsparse.DynamicRetinaHead", route_predictors=True, sparsity=dict(keep_ratio=0.5)),
)
custom_hooks = [dict(type="mmsparse.SparsityHook")]
