"""What scorers see of a map: the features of each unit."""

import torch.nn.functional as F
from torch import Tensor

from mmsparse.ops import opaque, zero_beyond

from .selection import Geometry
from .valid import valid_units


def unit_features(x: Tensor, geometry: Geometry) -> Tensor:
    """Of maps (B, C, H, W) to (B, N, C): a tile is the mean of its locations that hold a real pixel."""
    if geometry.tile == 1:
        return x.flatten(2).transpose(1, 2)
    valid = valid_units(geometry.locations, x)
    if valid is None:
        means = tile_means(x, geometry.tile)
    else:
        real = valid.mask.view(len(x), 1, *geometry.size)
        share = tile_means(real.to(x.dtype), geometry.tile).clamp_min(0.5 / geometry.tile**2)
        means = tile_means(zero_beyond(x, real), geometry.tile) / share
    return means.flatten(2).transpose(1, 2)


@opaque(lambda x, tile: F.avg_pool2d(x, tile, ceil_mode=True, count_include_pad=False))
def tile_means(x: Tensor, tile: int) -> Tensor:
    return F.avg_pool2d(x, tile, ceil_mode=True, count_include_pad=False)
