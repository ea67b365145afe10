_base_ = "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"
model = dict(
    type="mmsparse.DynamicDINO",
    sparsity=dict(keep_ratio=0.5),
    backbone=dict(type="mmsparse.DynamicResNet", sparsity=dict(keep_ratio=0.5)),
)
custom_hooks = [dict(type="mmsparse.SparsityHook")]
