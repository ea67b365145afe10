# The demo's detector, its slow path where locations are unlike the rest of their picture.
_base_ = "../../../configs/demo/atss_dynamic-convnext-mini_k50_scenes.py"
custom_imports = dict(imports=["projects.template"], allow_failed_imports=False)
model = dict(backbone=dict(sparsity=dict(scorer=dict(type="SurpriseScorer"))))
custom_hooks = [dict(type="mmsparse.SparsityHook"), dict(type="mmsparse.SeedHook", seed=0)]
