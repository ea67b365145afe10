"""The mask head of two-stage detectors, routed."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.models.roi_heads.mask_heads import FCNMaskHead

from mmsparse.models.convs import RoutedPart, routable
from mmsparse.registry import MODELS


@MODELS.register_module()
class DynamicFCNMaskHead(RoutedPart, FCNMaskHead):
    """FCNMaskHead whose convolutions are routed: at tiles of each region, chosen once for all of them.

    A tile has 7x7 locations unless ``sparsity`` says otherwise, a quarter of a region: small ones cost more to arrange
    than they save.
    """

    prefix = "mask_head"
    of_regions = True

    def __init__(self, *args: Any, sparsity: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        own = {"tile": 7, **sparsity} if isinstance(sparsity, Mapping) else sparsity
        super().__init__(*args, sparsity=own, **kwargs)

    def routed_convs(self, levels: int) -> Sequence[str]:
        return routable(self, "convs.")

    def decided_with(self, name: str) -> str:
        return "regions"
