_base_ = "./mask-rcnn_vit-s_simple-pyramid_amp-ms-crop-3x_coco.py"
model = dict(backbone=dict(type="mmsparse.DynamicViT", sparsity=dict(keep_ratio=0.7)))
custom_hooks = [dict(type="mmsparse.SparsityHook", loss_weight=2.0)]
