"""Registered networks whose blocks are routed."""

from mmsparse.env import require

require("mmengine", "mmcv", "mmpretrain")

from .backbones import DynamicConvNeXt, DynamicSwin, DynamicViT  # noqa: E402
from .necks import SimpleFeaturePyramid  # noqa: E402

__all__ = ["DynamicConvNeXt", "DynamicSwin", "DynamicViT", "SimpleFeaturePyramid"]
