_base_ = "./tpc-deit-s_8xb128-30e_in1k.py"
model = dict(
    backbone=dict(
        type="mmsparse.DynamicViT",
        sparsity=dict(
            scorer=dict(_delete_=True, type="IdleScorer"),
            selector=dict(_delete_=True, type="TopKSelector"),
            share_scorer=False,
        ),
    )
)
custom_hooks = [
    dict(type="EMAHook", momentum=1e-4, priority="ABOVE_NORMAL"),
    dict(type="mmsparse.SparsityHook", anneal=None),
    dict(type="mmsparse.TokenCutHook"),
    dict(type="mmsparse.TeacherHook"),
]
