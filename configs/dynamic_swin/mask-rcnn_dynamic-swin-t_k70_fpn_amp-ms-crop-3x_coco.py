_base_ = "./mask-rcnn_swin-t_fpn_amp-ms-crop-3x_coco.py"
model = dict(backbone=dict(type="mmsparse.DynamicSwin", sparsity=dict(keep_ratio=0.7)))
custom_hooks = [dict(type="mmsparse.SparsityHook")]
