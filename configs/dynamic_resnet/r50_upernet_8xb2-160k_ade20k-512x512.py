_base_ = "mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py"

# a ResNet with the weights that torchvision has, in place of a ResNetV1c
model = dict(
    pretrained=None,
    backbone=dict(
        type="mmseg.ResNet",
        init_cfg=dict(type="Pretrained", checkpoint="https://download.pytorch.org/models/resnet50-0676ba61.pth"),
    ),
)
train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(enable=False, base_batch_size=16)
