"""Heads whose convolutions are routed. Those of a library that is not installed say so when they are built."""

from mmsparse.models.absent import present_or_absent
from mmsparse.stock import HEADS, OF_REGIONS

_FOUND = present_or_absent(
    __name__,
    detection=("mmdet", [name for name in HEADS["mmdet"] if name not in OF_REGIONS]),
    regions=("mmdet", OF_REGIONS),
    segmentation=("mmseg", HEADS["mmseg"]),
)
globals().update(_FOUND)
__all__ = [*_FOUND]
