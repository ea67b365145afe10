from .dynamic_convnext import DynamicConvNeXt
from .dynamic_swin import DynamicSwin
from .dynamic_vit import DynamicViT

__all__ = ["DynamicConvNeXt", "DynamicSwin", "DynamicViT"]
