# Half of the locations in every block of the backbone; decided where the detail changes.
_base_ = "./atss_convnext-atto_fpn_scenes.py"
model = dict(
    backbone=dict(
        type="mmsparse.DynamicConvNeXt",
        sparsity=dict(places=[(0, 0), (1, 0), (2, 0), (2, 3), (3, 0)], keep_ratio=[0.5] * 5),
    )
)
custom_hooks = [dict(type="mmsparse.SparsityHook", score_weight=1.0)]
