# Swin's detection recipe: 36 epochs of AdamW with mixed precision
_base_ = "./schedule_3x.py"

optim_wrapper = dict(
    _delete_=True,
    type="AmpOptimWrapper",
    paramwise_cfg=dict(
        custom_keys=dict(
            absolute_pos_embed=dict(decay_mult=0.0),
            relative_position_bias_table=dict(decay_mult=0.0),
            norm=dict(decay_mult=0.0),
        )
    ),
    optimizer=dict(type="AdamW", lr=0.0001, betas=(0.9, 0.999), weight_decay=0.05),
)
