_base_ = "./mask-rcnn_convnext-s_fpn_amp-ms-crop-3x_coco.py"
model = dict(backbone=dict(type="mmsparse.DynamicConvNeXt", sparsity=dict(keep_ratio=0.9)))
custom_hooks = [dict(type="mmsparse.SparsityHook")]
