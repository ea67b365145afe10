"""Heads whose convolutions are routed. Those of a library that is not installed say so when they are built."""

from mmsparse.env import has
from mmsparse.models.absent import stand_in

if has("mmdet"):
    from .detection import DynamicATSSHead, DynamicFCOSHead, DynamicGFLHead, DynamicRetinaHead, DynamicRPNHead
else:
    DynamicATSSHead = stand_in("DynamicATSSHead", "mmdet")
    DynamicFCOSHead = stand_in("DynamicFCOSHead", "mmdet")
    DynamicGFLHead = stand_in("DynamicGFLHead", "mmdet")
    DynamicRetinaHead = stand_in("DynamicRetinaHead", "mmdet")
    DynamicRPNHead = stand_in("DynamicRPNHead", "mmdet")
if has("mmseg"):
    from .segmentation import DynamicFPNHead, DynamicUPerHead
else:
    DynamicFPNHead = stand_in("DynamicFPNHead", "mmseg")
    DynamicUPerHead = stand_in("DynamicUPerHead", "mmseg")

__all__ = [
    "DynamicATSSHead",
    "DynamicFCOSHead",
    "DynamicFPNHead",
    "DynamicGFLHead",
    "DynamicRPNHead",
    "DynamicRetinaHead",
    "DynamicUPerHead",
]
