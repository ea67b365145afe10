"""Necks whose convolutions are routed. Those of a library that is not installed say so when they are built."""

from mmsparse.env import has
from mmsparse.models.absent import stand_in

from .simple_feature_pyramid import SimpleFeaturePyramid

if has("mmdet"):
    from mmsparse.models.necks.pyramids import DynamicChannelMapper, DynamicFPN, DynamicPAFPN
else:
    DynamicChannelMapper = stand_in("DynamicChannelMapper", "mmdet")
    DynamicFPN = stand_in("DynamicFPN", "mmdet")
    DynamicPAFPN = stand_in("DynamicPAFPN", "mmdet")

__all__ = ["DynamicChannelMapper", "DynamicFPN", "DynamicPAFPN", "SimpleFeaturePyramid"]
