# The masks are made by hand, nearest to the centre first, and no result of a search. For those of one, train what
# python -m projects.patch_slimming.search configs/imagenet/deit-s_8xb128-30e_in1k.py DEIT-S.pth --out DIR
# writes, DIR/slim_config.py.
_base_ = "../../../configs/imagenet/deit-s_8xb128-30e_in1k.py"
custom_imports = dict(imports=["projects.patch_slimming"], allow_failed_imports=False)
model = dict(backbone=dict(type="mmsparse.SlimViT", masks="{{ fileDirname }}/deit-s_by-hand_masks.json"))
optim_wrapper = dict(optimizer=dict(lr=2e-5))  # the paper says no more than "DeiT's strategy"
custom_hooks = [
    dict(type="EMAHook", momentum=1e-4, priority="ABOVE_NORMAL"),
    dict(type="mmsparse.SparsityHook", anneal=None),
]
