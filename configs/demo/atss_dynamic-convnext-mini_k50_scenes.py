# Half of the locations in every block of the backbone; decided where the detail changes.
_base_ = "./atss_convnext-mini_scenes.py"
model = dict(
    backbone=dict(
        type="mmsparse.DynamicConvNeXt",
        sparsity=dict(
            places=[(0, 0), (1, 0), (1, 2), (2, 0)],
            keep_ratio=[0.5] * 4,
            learn="gate",  # what the README's numbers were measured with
        ),
    )
)
custom_hooks = [dict(type="mmsparse.SparsityHook", score_weight=1.0)]
