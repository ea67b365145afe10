# Masks and weights come from the search over a trained dense network:
# python -m projects.patch_slimming.search configs/dynamic_vit/vit-s_upernet_8xb2-160k_ade20k-512x512.py DENSE.pth
#     --out work_dirs/slim-vit-s_upernet
_base_ = "../../../configs/dynamic_vit/vit-s_upernet_8xb2-160k_ade20k-512x512.py"
custom_imports = dict(imports=["projects.patch_slimming"], allow_failed_imports=False)
model = dict(
    backbone=dict(type="mmsparse.SlimViT", masks="work_dirs/slim-vit-s_upernet/masks.json", init_cfg=None),
)
load_from = "work_dirs/slim-vit-s_upernet/slim.pth"
custom_hooks = [dict(type="mmsparse.SparsityHook", anneal=None)]
