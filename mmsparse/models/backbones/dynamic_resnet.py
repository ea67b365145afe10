"""The ResNets of mmdet, routed."""

from mmdet.models.backbones import ResNet, ResNetV1d, ResNeXt

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
