_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"

model = dict(
    backbone=dict(
        type="mmdet.ResNet",
        init_cfg=dict(type="Pretrained", checkpoint="https://download.pytorch.org/models/resnet50-0676ba61.pth"),
    )
)
