"""Registered networks whose blocks are routed."""

from .backbones import DynamicConvNeXt

__all__ = ["DynamicConvNeXt"]
