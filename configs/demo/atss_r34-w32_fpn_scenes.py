# Three stages of a ResNet-34 of half its width, from scratch.
_base_ = "./atss_convnext-nano_fpn_scenes.py"
model = dict(
    backbone=dict(
        _delete_=True,
        type="ResNet",
        depth=34,
        base_channels=32,
        stem_channels=32,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(1, 2),
        norm_eval=False,
    ),
)
