# Swin: attention stays, the feed-forward network of every block of the third stage pauses for some tokens.
_base_ = "../../../configs/dynamic_swin/swin-t_upernet_8xb2-160k_ade20k-512x512.py"
custom_imports = dict(imports=["projects.tpc"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        type="mmsparse.DynamicSwin",
        sparsity=dict(
            places=[(2, 1), (2, 2), (2, 3), (2, 4), (2, 5)],
            keep_ratio=[0.7, 0.7, 0.5, 0.5, 0.3],
            scorer=dict(type="PropagationScorer"),
            fast_path=dict(type="IdentityFastPath"),
            share_scorer=True,
        ),
    )
)
custom_hooks = [dict(type="mmsparse.SparsityHook"), dict(type="mmsparse.SmoothDecisionsHook", weight=1.0)]
