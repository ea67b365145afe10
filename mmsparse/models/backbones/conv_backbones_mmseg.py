"""Stock backbones of mmseg whose 3x3 convolutions are routed, as those of necks and heads are."""

import re
from collections.abc import Sequence
from typing import Any

from mmseg.models.backbones import BiSeNetV1, BiSeNetV2, HRNet, ICNet, ResNet, STDCContextPathNet, UNet

from mmsparse.models.convs import RoutedConvs, routable
from mmsparse.registry import MODELS

from .routed_conv_resnet import RoutedConvResNet
from .routed_hrnet import RoutedHRNet


@MODELS.register_module()
class DynamicSegHRNet(RoutedHRNet, HRNet):
    """HRNet of mmseg, which joins its branches otherwise than mmdet's."""


@MODELS.register_module()
class DynamicConvResNetV1c(RoutedConvResNet, ResNet):
    """ResNetV1c of mmseg whose 3x3 convolutions are routed one by one, where DynamicResNetV1c routes whole blocks."""

    def __init__(self, *args: Any, deep_stem: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, deep_stem=deep_stem, **kwargs)


class RoutedPaths(RoutedConvs):
    """A backbone of several paths: those of a stage share a decision, all others have their own. Frozen ones stay."""

    stage = r".*\blayer\d+"

    def routed_convs(self, levels: int) -> Sequence[str]:
        convs = {name: self.get_submodule(name) for name in routable(self)}
        return [name for name, conv in convs.items() if conv.in_channels > 3 and conv.weight.requires_grad]

    def decided_with(self, name: str) -> str:
        found = re.match(self.stage, name)
        return found[0] if found else name


@MODELS.register_module()
class DynamicBiSeNetV1(RoutedPaths, BiSeNetV1):
    """BiSeNetV1 whose 3x3 convolutions are routed."""


@MODELS.register_module()
class DynamicBiSeNetV2(RoutedPaths, BiSeNetV2):
    """BiSeNetV2 whose 3x3 convolutions are routed."""

    stage = r"detail\.detail_branch\.\d+"


@MODELS.register_module()
class DynamicICNet(RoutedPaths, ICNet):
    """ICNet whose 3x3 convolutions are routed."""


@MODELS.register_module()
class DynamicSTDCContextPathNet(RoutedPaths, STDCContextPathNet):
    """STDC with its context path, whose 3x3 convolutions are routed."""

    stage = r"backbone\.stages\.\d+\.\d+"


@MODELS.register_module()
class DynamicUNet(RoutedConvs, UNet):
    """UNet whose 3x3 convolutions are routed; those of a level share a decision on either way."""

    def routed_convs(self, levels: int) -> Sequence[str]:
        return routable(self)[1:]  # the first one reads pixels

    def decided_with(self, name: str) -> str:
        """'encoder.2.1.convs.0.conv' is of 'encoder.2'."""
        return re.match(r"(en|de)coder\.\d+", name)[0]
