# As many tokens as the masks keep, but chosen in each picture, by scorers that learn its own significance.
_base_ = "./slim-vit-mini_fcn_scenes.py"
model = dict(backbone=dict(sparsity=dict(scorer=dict(type="MLPScorer"))))
custom_hooks = [dict(type="mmsparse.SignificanceHook")]
