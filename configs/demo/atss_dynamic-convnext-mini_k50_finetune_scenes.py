# From the trained dense detector to a dynamic one: its own dense network teaches, what is new learns fastest.
_base_ = "./atss_dynamic-convnext-mini_k50_scenes.py"

load_from = "work_dirs/atss_convnext-mini_scenes/iter_1200.pth"
custom_hooks = [dict(type="mmsparse.SparsityHook", score_weight=1.0), dict(type="mmsparse.TeacherHook")]
optim_wrapper = dict(
    constructor="mmsparse.SparsityOptimWrapperConstructor",
    paramwise_cfg=dict(backbone_mult=0.2, pretrained=("backbone", "neck", "bbox_head")),
)
max_iters = 400
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=50, end=max_iters),
]
