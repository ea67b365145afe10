"""Necks whose convolutions are routed. Those of a library that is not installed say so when they are built."""

from mmsparse.models.absent import present_or_absent
from mmsparse.stock import NECKS

from .simple_feature_pyramid import SimpleFeaturePyramid

_FOUND = present_or_absent(__name__, pyramids=("mmdet", NECKS["mmdet"]), multi_level=("mmseg", NECKS["mmseg"]))
globals().update(_FOUND)
__all__ = ["SimpleFeaturePyramid", *_FOUND]
