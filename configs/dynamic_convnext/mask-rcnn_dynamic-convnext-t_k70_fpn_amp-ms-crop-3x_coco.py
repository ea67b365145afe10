_base_ = "./mask-rcnn_convnext-t_fpn_amp-ms-crop-3x_coco.py"
model = dict(backbone=dict(type="mmsparse.DynamicConvNeXt", sparsity=dict(keep_ratio=0.7)))
custom_hooks = [dict(type="mmsparse.SparsityHook")]
