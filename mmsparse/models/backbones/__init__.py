from .dynamic_convnext import DynamicConvNeXt
from .dynamic_swin import DynamicSwin

__all__ = ["DynamicConvNeXt", "DynamicSwin"]
