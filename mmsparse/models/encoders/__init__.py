"""Deformable encoders whose tokens are routed, in the classes that hold them. Without mmdet they say so when built."""

from mmsparse.models.absent import present_or_absent
from mmsparse.stock import DETECTORS, PIXEL_DECODERS

_FOUND = present_or_absent(__name__, detectors=("mmdet", DETECTORS), pixel_decoders=("mmdet", PIXEL_DECODERS))
globals().update(_FOUND)
__all__ = [*_FOUND]
