from .dynamic_convnext import DynamicConvNeXt

__all__ = ["DynamicConvNeXt"]
