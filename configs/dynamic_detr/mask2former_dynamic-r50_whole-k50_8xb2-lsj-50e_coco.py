_base_ = "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py"
model = dict(
    backbone=dict(type="mmsparse.DynamicResNet", sparsity=dict(keep_ratio=0.5)),
    panoptic_head=dict(
        pixel_decoder=dict(type="mmsparse.DynamicMSDeformAttnPixelDecoder", sparsity=dict(keep_ratio=0.5))
    ),
)
custom_hooks = [dict(type="mmsparse.SparsityHook")]
