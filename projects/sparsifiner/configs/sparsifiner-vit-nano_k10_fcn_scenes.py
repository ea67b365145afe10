# From the trained dense segmenter to one whose queries attend to a tenth of the keys; its own dense network teaches.
_base_ = "../../../configs/demo/vit-nano_fcn_scenes.py"
custom_imports = dict(imports=["projects.sparsifiner"], allow_failed_imports=False)
load_from = "work_dirs/vit-nano_fcn_scenes/iter_1200.pth"
model = dict(backbone=dict(type="mmsparse.SparsifinerViT", connectivity=dict(keep_ratio=0.1)))
custom_hooks = [
    dict(type="mmsparse.TeacherHook"),
    dict(type="mmsparse.ConnectivityHook", reconstruct=0.5),  # so few steps would teach predictors little otherwise
]
optim_wrapper = dict(
    constructor="mmsparse.SparsityOptimWrapperConstructor",
    paramwise_cfg=dict(backbone_mult=0.2, new_mult=3.0, pretrained=("backbone", "decode_head")),
)
max_iters = 400
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20)]
