_base_ = "./cascade-mask-rcnn_swin-s_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py"
model = dict(backbone=dict(type="mmsparse.DynamicSwin", sparsity=dict(keep_ratio=0.7)))
custom_hooks = [dict(type="mmsparse.SparsityHook")]
