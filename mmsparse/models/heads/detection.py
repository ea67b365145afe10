"""Stock dense heads whose towers are routed; a level decides once for both towers."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models import dense_heads as stock
from mmdet.models.dense_heads import (
    DecoupledSOLOHead,
    DecoupledSOLOLightHead,
    GARetinaHead,
    GARPNHead,
    RetinaHead,
    RPNHead,
    RTMDetInsSepBNHead,
    SOLOHead,
    TOODHead,
    YOLACTHead,
    YOLOXHead,
)
from mmdet.models.utils import generate_coordinate
from torch import Tensor, nn

from mmsparse.models.convs import InTurn, RoutedLevels, RoutedLoop, RoutedTowers, routable, routed
from mmsparse.registry import MODELS
from mmsparse.sparsity.decider import check_flags
from mmsparse.stock import DEFORMABLE, LEVELS, TOWERS


@MODELS.register_module()
class DynamicRPNHead(RoutedTowers, RPNHead):
    """RPNHead whose shared convolution is routed."""

    prefix = "rpn"

    def routed_convs(self, levels: int) -> Sequence[str]:
        if isinstance(self.rpn_conv, nn.Sequential):
            return [f"rpn_conv.{i}.conv" for i in range(len(self.rpn_conv))]
        return ["rpn_conv"]


@MODELS.register_module()
class DynamicRetinaHead(RoutedTowers, RetinaHead):
    """RetinaHead whose towers are routed.

    Args:
        route_predictors: Whether its last, predicting convolutions (a seventh of a RetinaNet) are routed as well.
    """

    def __init__(self, *args: Any, route_predictors: bool = False, **kwargs: Any) -> None:
        check_flags(route_predictors=route_predictors)
        self.route_predictors = route_predictors
        super().__init__(*args, **kwargs)

    def routed_convs(self, levels: int) -> Sequence[str]:
        predictors = ["retina_cls", "retina_reg"] if self.route_predictors else []
        return [*super().routed_convs(levels), *predictors]


class RoutedGuided(RoutedTowers):
    """The same of heads that guess where objects are and predict only there."""

    def export_objection(self, padded: bool) -> str:
        return (
            "how many locations it predicts at depends on the picture, in the stock head as well, and an exported "
            "network has fixed shapes. Use it in PyTorch"
        )


class RoutedDeformable(RoutedTowers):
    """The same of heads with deformable convolutions."""

    def export_objection(self, padded: bool) -> str:
        return "the deformable convolutions behind its towers are not exported. Use it in PyTorch"


@MODELS.register_module()
class DynamicGARetinaHead(RoutedGuided, GARetinaHead):
    """GARetinaHead whose towers are routed."""


@MODELS.register_module()
class DynamicGARPNHead(RoutedGuided, GARPNHead):
    """GARPNHead whose shared convolution is routed."""

    prefix = "rpn"

    def routed_convs(self, levels: int) -> Sequence[str]:
        return ["rpn_conv"]


@MODELS.register_module()
class DynamicRTMDetInsSepBNHead(RoutedLevels, RTMDetInsSepBNHead):
    """RTMDetInsSepBNHead whose towers and mask features are routed; one tower of a level serves classes and boxes."""

    towers = ("cls_convs", "kernel_convs")

    def routed_convs(self, levels: int) -> Sequence[str]:
        return [*super().routed_convs(levels), *routable(self, "mask_head.stacked_convs.")]

    def decided_with(self, name: str) -> str:
        return "masks" if name.startswith("mask_head.") else super().decided_with(name)


@MODELS.register_module()
class DynamicTOODHead(RoutedLoop, TOODHead):
    """TOODHead whose tower, one for both tasks, is routed."""

    def routed_convs(self, levels: int) -> Sequence[str]:
        return routable(self, "inter_convs.")


class RoutedMaskTowers(RoutedLoop):
    """The same of heads that give a mask for each cell of a grid; what works on grids is not routed.

    The stock forward asks for the first level's size, too, when the convolutions of a level have run.
    """

    coordinates = slice(None)  # that the first convolutions are given beside the features
    towers: Sequence[str] = ("mask_convs.",)

    def routed_convs(self, levels: int) -> Sequence[str]:
        return routable(self, *self.towers)

    def levels_of(self, maps: Sequence[Tensor]) -> Sequence[Tensor]:
        """Those of pictures: the stock class changes the size of some of them first."""
        return maps

    def resize_feats(self, x: Sequence[Tensor]) -> Sequence[Tensor]:
        maps = super().resize_feats(x)
        if self.router is None:
            return maps
        places = [generate_coordinate(m.shape, m.device)[:, self.coordinates].to(m.dtype) for m in maps]
        given = [torch.cat(pair, dim=1) for pair in zip(maps, places, strict=True)]
        return InTurn(self.router, maps, self.router.decide_levels(given))

    def shared_by(self) -> int:
        return self.num_levels


@MODELS.register_module()
class DynamicSOLOHead(RoutedMaskTowers, SOLOHead):
    """SOLOHead whose tower for masks is routed."""


@MODELS.register_module()
class DynamicDecoupledSOLOHead(RoutedMaskTowers, DecoupledSOLOHead):
    """DecoupledSOLOHead whose towers for masks are routed."""

    coordinates = slice(0, 1)  # one of the two, for either tower
    towers = ("mask_convs_x.", "mask_convs_y.")


@MODELS.register_module()
class DynamicDecoupledSOLOLightHead(RoutedMaskTowers, DecoupledSOLOLightHead):
    """DecoupledSOLOLightHead whose tower for masks is routed."""


@MODELS.register_module()
class DynamicYOLACTHead(RoutedTowers, YOLACTHead):
    """YOLACTHead whose shared convolutions are routed; its prototypes are another part's."""

    def routed_convs(self, levels: int) -> Sequence[str]:
        return routable(self, "head_convs.")


@MODELS.register_module()
class DynamicYOLOXHead(RoutedLevels, YOLOXHead):
    """YOLOXHead whose towers, of each level its own, are routed."""

    towers = ("multi_level_cls_convs", "multi_level_reg_convs")


for _mixin, _names in ((RoutedTowers, TOWERS), (RoutedDeformable, DEFORMABLE), (RoutedLevels, LEVELS)):
    for _name in _names:
        globals()[f"Dynamic{_name}"] = routed(_mixin, getattr(stock, _name), "towers", __name__)
