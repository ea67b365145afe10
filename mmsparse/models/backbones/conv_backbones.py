"""Stock backbones of mmdet whose 3x3 convolutions are routed, as those of necks and heads are."""

from collections.abc import Sequence

from mmdet.models.backbones import CSPDarknet, CSPNeXt, Darknet, HRNet, Res2Net, ResNet

from mmsparse.models.convs import RoutedConvs, routable
from mmsparse.registry import MODELS

from .routed_conv_resnet import RoutedConvResNet
from .routed_hrnet import RoutedHRNet


class RoutedBlocks(RoutedConvs):
    """The blocks of a stage share a decision; what changes the size of maps stays dense."""

    stages: tuple[str, ...] = ("stage",)

    def routed_convs(self, levels: int) -> Sequence[str]:
        return routable(self, *self.stages)

    def decided_with(self, name: str) -> str:
        return name.partition(".")[0]


@MODELS.register_module()
class DynamicConvResNet(RoutedConvResNet, ResNet):
    """ResNet of mmdet whose 3x3 convolutions are routed one by one, where DynamicResNet routes whole blocks."""


@MODELS.register_module()
class DynamicRes2Net(RoutedConvResNet, Res2Net):
    """Res2Net whose 3x3 convolutions are routed."""


@MODELS.register_module()
class DynamicHRNet(RoutedHRNet, HRNet):
    """HRNet of mmdet whose blocks' 3x3 convolutions are routed."""


@MODELS.register_module()
class DynamicCSPNeXt(RoutedBlocks, CSPNeXt):
    """CSPNeXt whose blocks' 3x3 convolutions are routed; the depthwise ones stay dense."""


@MODELS.register_module()
class DynamicCSPDarknet(RoutedBlocks, CSPDarknet):
    """CSPDarknet whose blocks' 3x3 convolutions are routed."""


@MODELS.register_module()
class DynamicDarknet(RoutedBlocks, Darknet):
    """Darknet whose blocks' 3x3 convolutions are routed."""

    stages = ("conv_res_block",)
