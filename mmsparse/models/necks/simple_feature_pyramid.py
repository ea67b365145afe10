"""The pyramid of ViTDet: all levels from the last map of a plain backbone."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.models.utils import LayerNorm2d
from torch import Tensor, nn

from mmsparse.registry import MODELS


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Levels of 4, 2, 1 and 1/2 times the resolution of a plain backbone's last map, and coarser ones by pooling.

    With patches of 16 pixels these are the strides 4, 8, 16, 32 and 64 that heads behind an FPN expect.

    Args:
        in_channels: Number of channels of the backbone's maps, as one number or one for each of them.
        out_channels: Number of channels of every level.
        num_outs: Number of levels; those beyond four are pooled from the last.
    """

    def __init__(self, in_channels: int | Sequence[int], out_channels: int = 256, num_outs: int = 5) -> None:
        super().__init__()
        width = in_channels if isinstance(in_channels, int) else in_channels[-1]
        if width % 4:
            raise ValueError(
                f"SimpleFeaturePyramid: expected argument `in_channels` to be divisible by 4, but got {in_channels}"
            )
        if not isinstance(num_outs, int) or num_outs < 4:
            raise ValueError(
                f"SimpleFeaturePyramid: expected argument `num_outs` to be a whole number >= 4, but got {num_outs!r}"
            )
        self.num_outs = num_outs
        resize = [
            nn.Sequential(_double(width), LayerNorm2d(width // 2), nn.GELU(), _double(width // 2)),
            _double(width),
            nn.Identity(),
            nn.MaxPool2d(2),
        ]
        widths = [width // 4, width // 2, width, width]
        self.levels = nn.ModuleList(
            nn.Sequential(
                scale,
                nn.Conv2d(channels, out_channels, 1, bias=False),
                LayerNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                LayerNorm2d(out_channels),
            )
            for scale, channels in zip(resize, widths, strict=True)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        outs = [level(inputs[-1]) for level in self.levels]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], kernel_size=1, stride=2))
        return tuple(outs)


def _double(channels: int) -> nn.Module:
    """Twice the resolution at half the channels."""
    return nn.ConvTranspose2d(channels, channels // 2, kernel_size=2, stride=2)
