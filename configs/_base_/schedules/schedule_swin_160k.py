# Swin's segmentation recipe: 160k iterations of AdamW
_base_ = "./schedule_160k.py"

optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    paramwise_cfg=dict(
        custom_keys=dict(
            absolute_pos_embed=dict(decay_mult=0.0),
            relative_position_bias_table=dict(decay_mult=0.0),
            norm=dict(decay_mult=0.0),
        )
    ),
    optimizer=dict(type="AdamW", lr=0.00006, betas=(0.9, 0.999), weight_decay=0.01),
)
