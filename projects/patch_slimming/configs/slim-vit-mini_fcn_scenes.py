# The segmenter with the masks that the search found for it, trained on from the blocks that it rebuilt.
_base_ = "./dense/vit-mini_fcn_scenes.py"
custom_imports = dict(imports=["projects.patch_slimming"], allow_failed_imports=False)
model = dict(backbone=dict(type="mmsparse.SlimViT", masks="{{ fileDirname }}/vit-mini_scenes_masks.json"))
custom_hooks = [dict(type="mmsparse.SparsityHook", anneal=None)]
max_iters = 200
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = [dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=0, end=max_iters)]
