"""Stock backbones of mmseg whose 3x3 convolutions are routed, as those of necks and heads are."""

import re
from collections.abc import Sequence

from mmseg.models.backbones import HRNet, UNet

from mmsparse.models.convs import RoutedConvs, routable
from mmsparse.registry import MODELS

from .routed_hrnet import RoutedHRNet


@MODELS.register_module()
class DynamicSegHRNet(RoutedHRNet, HRNet):
    """HRNet of mmseg, which joins its branches otherwise than mmdet's."""


@MODELS.register_module()
class DynamicUNet(RoutedConvs, UNet):
    """UNet whose 3x3 convolutions are routed; those of a level share a decision on either way."""

    def routed_convs(self, levels: int) -> Sequence[str]:
        return routable(self)[1:]  # the first one reads pixels

    def decided_with(self, name: str) -> str:
        """'encoder.2.1.convs.0.conv' is of 'encoder.2'."""
        return re.match(r"(en|de)coder\.\d+", name)[0]
