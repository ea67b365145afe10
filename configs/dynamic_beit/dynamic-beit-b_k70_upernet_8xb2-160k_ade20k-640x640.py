_base_ = "mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py"
model = dict(
    pretrained=None,
    backbone=dict(
        _delete_=True,
        type="mmsparse.DynamicBEiT",
        arch="base",
        img_size=640,
        out_indices=[3, 5, 7, 11],
        out_type="featmap",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="pretrain/beit_base_patch16_224_pt22k_ft22k.pth"),
        sparsity=dict(keep_ratio=0.7),
    ),
)
custom_hooks = [dict(type="mmsparse.SparsityHook", loss_weight=2.0)]
