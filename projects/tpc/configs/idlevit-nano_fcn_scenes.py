# The documented relative: the class token's attention selects at every block, and a loss on the cut.
_base_ = "./tpc-vit-nano_fcn_scenes.py"
model = dict(
    backbone=dict(
        type="mmsparse.DynamicViT",
        sparsity=dict(scorer=dict(_delete_=True, type="IdleScorer"), share_scorer=False),
    )
)
custom_hooks = [dict(type="mmsparse.SparsityHook"), dict(type="mmsparse.TokenCutHook")]
