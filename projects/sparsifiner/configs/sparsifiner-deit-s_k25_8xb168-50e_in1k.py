# The released recipe for DeiT-S with a quarter of the keys: 5 epochs for the predictors, 45 for the network.
_base_ = "../../../configs/imagenet/deit-s_8xb128-30e_in1k.py"
custom_imports = dict(imports=["projects.sparsifiner"], allow_failed_imports=False)
model = dict(backbone=dict(type="mmsparse.SparsifinerViT", connectivity=dict(keep_ratio=0.25)))
custom_hooks = [
    dict(type="EMAHook", momentum=1e-4, priority="ABOVE_NORMAL"),
    dict(type="mmsparse.TeacherHook"),
    dict(type="mmsparse.ConnectivityHook", reconstruct=0.1),
]
train_dataloader = dict(batch_size=168)
train_cfg = dict(max_epochs=50)
optim_wrapper = dict(optimizer=dict(lr=3e-4))
param_scheduler = [
    # the predictors' stage: 3e-4 to 2e-4
    dict(type="LinearLR", start_factor=1e-6, by_epoch=True, begin=0, end=3, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=2e-4, by_epoch=True, begin=3, end=5, convert_to_iter_based=True),
    # the network's: from there it warms up to 0.4 * 2e-4 = 8e-5, and falls to 2e-6
    dict(type="LinearLR", start_factor=1e-6, end_factor=0.4, by_epoch=True, begin=5, end=8, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=2e-6, by_epoch=True, begin=8, end=50, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=1344)
