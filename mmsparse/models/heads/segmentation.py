"""Stock decode heads whose 3x3 convolutions are routed; each decides from what it reads."""

import math
from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmseg.models import decode_heads as stock
from mmseg.models.decode_heads import DMHead, FPNHead, UPerHead
from torch import Tensor

from mmsparse.models.convs import RoutedHead, routed
from mmsparse.registry import MODELS
from mmsparse.stock import ON_ONE_MAP


@MODELS.register_module()
class DynamicUPerHead(RoutedHead, UPerHead):
    """UPerHead whose pyramid and fusion convolutions are routed; pooling module and laterals stay dense."""

    def routed_convs(self, levels: int) -> Sequence[str]:
        return [f"fpn_convs.{i}.conv" for i in range(len(self.fpn_convs))][:levels] + ["fpn_bottleneck.conv"]

    def psp_forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x = super().psp_forward(inputs)
        # Pooled 1x1 maps have lost their memory format, and the fusion's input takes that of its parts.
        return x if self.router is None else x.contiguous(memory_format=torch.channels_last)


@MODELS.register_module()
class DynamicFPNHead(RoutedHead, FPNHead):
    """FPNHead whose convolutions are routed where their map is one of the finest levels."""

    def routed_convs(self, levels: int) -> Sequence[str]:
        names = []
        for i, (stride, scale_head) in enumerate(zip(self.feature_strides, self.scale_heads, strict=True)):
            level = round(math.log2(stride / self.feature_strides[0]))
            for j, layer in enumerate(scale_head):
                if isinstance(layer, ConvModule):
                    names += [f"scale_heads.{i}.{j}.conv"] if level < levels else []
                    level -= 1  # what follows is twice as large
        return names


@MODELS.register_module()
class DynamicDMHead(RoutedHead, DMHead):
    """DMHead whose bottleneck is routed."""

    memory_format = torch.contiguous_format  # it takes views of maps as they lie in the stock network


for _name in ON_ONE_MAP:
    globals()[f"Dynamic{_name}"] = routed(RoutedHead, getattr(stock, _name), "convolutions larger than 1x1", __name__)
