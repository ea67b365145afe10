# The masks are made by hand, nearest to the centre first, and no result of a search. For those of one over a trained
# dense network, train what
# python -m projects.patch_slimming.search --out DIR \
#     configs/dynamic_vit/vit-s_upernet_8xb2-160k_ade20k-512x512.py DENSE.pth
# writes, DIR/slim_config.py.
_base_ = "../../../configs/dynamic_vit/vit-s_upernet_8xb2-160k_ade20k-512x512.py"
custom_imports = dict(imports=["projects.patch_slimming"], allow_failed_imports=False)
model = dict(backbone=dict(type="mmsparse.SlimViT", masks="{{ fileDirname }}/vit-s_by-hand_masks.json"))
custom_hooks = [dict(type="mmsparse.SparsityHook", anneal=None)]
