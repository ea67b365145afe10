"""Heads whose convolutions are routed, of the libraries that are installed and complete."""

from contextlib import suppress

with suppress(ImportError):  # mmdet's models need mmcv's compiled operators
    from .detection import DynamicATSSHead, DynamicFCOSHead, DynamicGFLHead, DynamicRetinaHead, DynamicRPNHead  # noqa: F401
with suppress(ImportError):
    from .segmentation import DynamicFPNHead, DynamicUPerHead  # noqa: F401

__all__ = [name for name in dir() if name.startswith("Dynamic")]
