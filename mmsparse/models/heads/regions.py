"""The heads of regions of two-stage detectors, routed."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead, Shared4Conv1FCBBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead, GridHead, HTCMaskHead, SCNetMaskHead
from torch import Tensor

from mmsparse.models.convs import RoutedPart, routable
from mmsparse.registry import MODELS


class RoutedRegions(RoutedPart):
    """Mixin in front of a stock head: its convolutions are routed at tiles of each region, chosen once for all of them.

    A tile has as many locations along a side as its class says unless ``sparsity`` does, about a quarter of a region:
    small ones cost more to arrange than they save.
    """

    prefix = "mask_head"
    of_regions = True
    tile = 7  # of 14x14
    where = "convs."  # its convolutions are

    def __init__(self, *args: Any, sparsity: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        own = {"tile": self.tile, **sparsity} if isinstance(sparsity, Mapping) else sparsity
        super().__init__(*args, sparsity=own, **kwargs)

    def routed_convs(self, levels: int) -> Sequence[str]:
        return routable(self, self.where)

    def decided_with(self, name: str) -> str:
        return "regions"


class RoutedBoxes(RoutedRegions):
    """The same for a head of boxes, whose regions have 7x7 locations; its linear layers are not routed."""

    prefix = "bbox_head"
    tile = 4
    where = "shared_convs."


@MODELS.register_module()
class DynamicFCNMaskHead(RoutedRegions, FCNMaskHead):
    """FCNMaskHead whose convolutions are routed."""


@MODELS.register_module()
class DynamicHTCMaskHead(RoutedRegions, HTCMaskHead):
    """HTCMaskHead whose convolutions are routed."""


@MODELS.register_module()
class DynamicSCNetMaskHead(RoutedRegions, SCNetMaskHead):
    """SCNetMaskHead whose convolutions are routed."""


@MODELS.register_module()
class DynamicGridHead(RoutedRegions, GridHead):
    """GridHead whose convolutions behind the first, which halves regions, are routed."""

    prefix = "grid_head"
    tile = 4

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: m.contiguous() for name, m in super().forward(x).items()}  # the stock class views them as rows


@MODELS.register_module()
class DynamicConvFCBBoxHead(RoutedBoxes, ConvFCBBoxHead):
    """ConvFCBBoxHead whose shared convolutions are routed."""


@MODELS.register_module()
class DynamicShared4Conv1FCBBoxHead(RoutedBoxes, Shared4Conv1FCBBoxHead):
    """Shared4Conv1FCBBoxHead whose convolutions are routed."""
