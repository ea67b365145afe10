"""The ResNets of mmseg, routed."""

from typing import Any

from mmseg.models.backbones import ResNet

from mmsparse.registry import MODELS

from .routed_resnet import RoutedResNet


@MODELS.register_module()
class DynamicResNetV1c(RoutedResNet, ResNet):
    """ResNetV1c of mmseg with dynamic spatial sparsification, dilated stages too.

    Args:
        deep_stem: False for ``mmseg.ResNet``.
        sparsity: As of :class:`DynamicResNet`.
        kwargs: Arguments of ``mmseg.ResNet``. With ``avg_down=True`` it is ``mmseg.ResNetV1d``.
    """

    def __init__(self, *args: Any, deep_stem: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, deep_stem=deep_stem, **kwargs)
