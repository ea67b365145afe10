"""Stock necks whose 3x3 convolutions are routed. Laterals and what has a stride stay dense."""

from collections.abc import Sequence

from mmdet.models.necks import FPN, HRFPN, PAFPN, YOLOXPAFPN, ChannelMapper, CSPNeXtPAFPN

from mmsparse.models.convs import RoutedNeck, routable
from mmsparse.registry import MODELS


@MODELS.register_module()
class DynamicFPN(RoutedNeck, FPN):
    """FPN whose output convolutions are routed."""

    def routed_convs(self, levels: int) -> Sequence[str]:
        return [f"fpn_convs.{i}.conv" for i in range(len(self.lateral_convs))][:levels]


@MODELS.register_module()
class DynamicPAFPN(RoutedNeck, PAFPN):
    """PAFPN whose output convolutions, of both ways, are routed."""

    def routed_convs(self, levels: int) -> Sequence[str]:
        down = [f"fpn_convs.{i}.conv" for i in range(len(self.lateral_convs))][:levels]
        return down + [f"pafpn_convs.{i}.conv" for i in range(len(self.pafpn_convs))][: levels - 1]


@MODELS.register_module()
class DynamicChannelMapper(RoutedNeck, ChannelMapper):
    """ChannelMapper whose convolutions, if they are 3x3 or larger, are routed."""

    def routed_convs(self, levels: int) -> Sequence[str]:
        return [f"convs.{i}.conv" for i in range(len(self.convs))][:levels]


@MODELS.register_module()
class DynamicHRFPN(RoutedNeck, HRFPN):
    """HRFPN whose convolutions are routed."""

    def routed_convs(self, levels: int) -> Sequence[str]:
        return [f"fpn_convs.{i}.conv" for i in range(len(self.fpn_convs))][:levels]


class RoutedCSPPAFPN(RoutedNeck):
    """Pyramids of cross-stage blocks, each of which decides once for all of its 3x3 convolutions."""

    def routed_convs(self, levels: int) -> Sequence[str]:
        return routable(self)

    def decided_with(self, name: str) -> str:
        """'top_down_blocks.0.blocks.2.conv1.conv' is of 'top_down_blocks.0', and so is 'out_convs.1.conv' of itself."""
        return ".".join(name.split(".")[:2])


@MODELS.register_module()
class DynamicCSPNeXtPAFPN(RoutedCSPPAFPN, CSPNeXtPAFPN):
    """CSPNeXtPAFPN whose 3x3 convolutions are routed; the depthwise ones stay dense."""


@MODELS.register_module()
class DynamicYOLOXPAFPN(RoutedCSPPAFPN, YOLOXPAFPN):
    """YOLOXPAFPN whose 3x3 convolutions are routed."""
