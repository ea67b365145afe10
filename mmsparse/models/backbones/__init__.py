from mmsparse.env import has
from mmsparse.models.absent import stand_in

from .dynamic_convnext import DynamicConvNeXt
from .dynamic_vit import DynamicViT

if has("mmseg") or has("mmdet"):
    from .dynamic_swin import DynamicSwin
else:
    DynamicSwin = stand_in("DynamicSwin", "mmseg", "mmdet")
if has("mmdet"):
    from .dynamic_resnet import DynamicResNet, DynamicResNetV1d, DynamicResNeXt
else:
    DynamicResNet, DynamicResNetV1d, DynamicResNeXt = (
        stand_in(name, "mmdet") for name in ("DynamicResNet", "DynamicResNetV1d", "DynamicResNeXt")
    )

if has("mmseg"):
    from .dynamic_resnet_v1c import DynamicResNetV1c
else:
    DynamicResNetV1c = stand_in("DynamicResNetV1c", "mmseg")

__all__ = [
    "DynamicConvNeXt",
    "DynamicResNeXt",
    "DynamicResNet",
    "DynamicResNetV1c",
    "DynamicResNetV1d",
    "DynamicSwin",
    "DynamicViT",
]
