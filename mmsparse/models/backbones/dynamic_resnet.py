"""The ResNets of mmdet, routed."""

from typing import Any

from mmdet.models.backbones import RegNet, ResNet, ResNetV1d, ResNeXt
from torch import Tensor

from mmsparse.registry import MODELS

from .routed_resnet import RoutedResNet


@MODELS.register_module()
class DynamicResNet(RoutedResNet, ResNet):
    """ResNet of mmdet with dynamic spatial sparsification; also for mmpretrain's, whose weights have the same names.

    Args:
        sparsity: Arguments of :class:`BlockRouter`, and ``tile``: locations along a side of what is chosen. An empty
            dict decides in the second block of each stage that is not frozen; None is the dense network.
        kwargs: Arguments of ``mmdet.ResNet``.
    """


@MODELS.register_module()
class DynamicResNeXt(RoutedResNet, ResNeXt):
    """The same of ``mmdet.ResNeXt``."""


@MODELS.register_module()
class DynamicResNetV1d(RoutedResNet, ResNetV1d):
    """The same of ``mmdet.ResNetV1d``."""


@MODELS.register_module()
class DynamicRegNet(RoutedResNet, RegNet):
    """The same of ``mmdet.RegNet``, whose 3x3 convolutions, in groups, are of the branch as well."""

    def check_arguments(self, arguments: dict[str, Any]) -> None:
        """It has an arch, and checks it."""

    def widths(self) -> list[int]:
        return self.stage_widths

    def stem_of(self, x: Tensor) -> Tensor:
        return self.relu(self.norm1(self.conv1(x)))
