_base_ = "./convnext-t_upernet_8xb2-amp-160k_ade20k-512x512.py"
model = dict(
    backbone=dict(
        arch="small",
        drop_path_rate=0.3,
        init_cfg=dict(
            checkpoint="https://mmassets.onedl.ai/mmclassification/v0/convnext/downstream/"
            "convnext-small_3rdparty_32xb128-noema_in1k_20220301-303e75e3.pth"
        ),
    )
)
optim_wrapper = dict(paramwise_cfg=dict(num_layers=12))
