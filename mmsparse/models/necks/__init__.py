"""Necks whose convolutions are routed, of the libraries that are installed and complete."""

from contextlib import suppress

from .simple_feature_pyramid import SimpleFeaturePyramid  # noqa: F401

with suppress(ImportError):  # mmdet's models need mmcv's compiled operators
    from .routed_necks import DynamicChannelMapper, DynamicFPN, DynamicPAFPN  # noqa: F401

__all__ = [name for name in dir() if name.startswith(("Dynamic", "Simple"))]
