_base_ = "./retinanet_convnext-t_fpn_amp-ms-crop-3x_coco.py"
model = dict(
    backbone=dict(type="mmsparse.DynamicConvNeXt", sparsity=dict(keep_ratio=0.5, places="every_stage")),
    neck=dict(type="mmsparse.DynamicFPN", sparsity=dict(keep_ratio=0.5)),
    bbox_head=dict(type="mmsparse.DynamicRetinaHead", route_predictors=True, sparsity=dict(keep_ratio=0.5)),
)
custom_hooks = [dict(type="mmsparse.SparsityHook")]
