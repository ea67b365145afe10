from mmsparse.env import has
from mmsparse.models.absent import stand_in

from .dynamic_convnext import DynamicConvNeXt
from .dynamic_vit import DynamicViT

if has("mmseg") or has("mmdet"):
    from .dynamic_swin import DynamicSwin
else:
    DynamicSwin = stand_in("DynamicSwin", "mmseg", "mmdet")

__all__ = ["DynamicConvNeXt", "DynamicSwin", "DynamicViT"]
