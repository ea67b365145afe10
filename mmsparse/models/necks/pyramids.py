"""Stock necks whose 3x3 convolutions are routed. Laterals and what has a stride stay dense."""

from collections.abc import Sequence

from mmdet.models.necks import FPN, PAFPN, ChannelMapper

from mmsparse.models.convs import RoutedNeck
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
