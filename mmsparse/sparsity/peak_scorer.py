"""Scores of tiles that do not lose what is small: a tile is as strong as the strongest of its locations."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mmsparse.ops import opaque, recomputed, tile_grid, zero_beyond
from mmsparse.registry import MODELS

from .scorers import ALL, Context, Scorer, mean_of_alive
from .selection import Geometry
from .valid import valid_units

WIDEST = 32  # every location pays for it: of a fusion of 2048 channels a quarter would be a twelfth of the convolution
LEAST = -0.17  # what GELU gives at least: a tile of padding alone is of no use, and no infinity gets into a mean


@MODELS.register_module()
class PeakScorer(Scorer):
    """A few channels are made of each location and its neighbours; a tile is the largest value of each in it.

    The mean of a tile, by contrast, is nearly the same with and without an object of two locations.

    Args:
        channels: Number of channels of the map.
        hidden: How many are made of them: a quarter, from 8 to 32, if not given.
        deep: 3x3 convolutions of all of these that follow the one of each by itself, for what takes more than a glance.
    """

    reads_map = True
    scores_any = False

    def __init__(self, channels: int, hidden: int | None = None, deep: int = 0, eps: float = 1e-6) -> None:
        super().__init__(channels)
        self.hidden = hidden = min(max(channels // 32, 1) * 8, WIDEST) if hidden is None else hidden
        if type(hidden) is not int or hidden < 4 or hidden % 4:
            raise ValueError(f"PeakScorer: expected argument `hidden` to be a multiple of 4, but got {hidden!r}")
        if type(deep) is not int or deep < 0:
            raise ValueError(f"PeakScorer: expected argument `deep` to be 0 or more convolutions, but got {deep!r}")
        self.few = nn.Conv2d(channels, hidden, 1)
        self.norm = nn.LayerNorm(hidden, eps=eps)  # of all channels it would cost more than all else
        self.around = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.deep = nn.ModuleList(nn.Conv2d(hidden, hidden, 3, padding=1) for _ in range(deep))
        self.peak = nn.Linear(hidden, hidden // 2)
        self.everywhere = nn.Linear(hidden, hidden // 2, bias=False)  # of the mean over all tiles
        self.head = nn.Sequential(nn.GELU(), nn.Linear(hidden // 2, hidden // 4), nn.GELU(), nn.Linear(hidden // 4, 1))
        self.init_weights()

    def init_weights(self) -> None:
        """torch's own initial weights; with smaller ones so narrow a network takes long to begin."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()

    def forward(self, x: Tensor, context: Context = ALL) -> Tensor:
        """Score the tiles (B, N) of maps (B, C, H, W)."""
        geometry = Geometry((int(x.shape[-2]), int(x.shape[-1]))) if context.geometry is None else context.geometry
        valid = valid_units(geometry.locations, x)
        real = None if valid is None else valid.mask.view(len(x), 1, *geometry.size)
        layers = [self.few, self.norm, self.around, self.peak, self.head[1], self.head[3], *self.deep]
        tensors = [t for layer in layers for t in (layer.weight, layer.bias)]
        return peaks(x, real, context.alive, geometry.tile, self.norm.eps, [self.everywhere.weight, *tensors])


def _no_scores(x: Tensor, real: Tensor | None, alive: Tensor | None, tile: int, *_: object) -> Tensor:
    high, wide = tile_grid(x.shape[-2:], tile)
    return x.new_empty(x.shape[0], high * wide)


@recomputed
@opaque(_no_scores)
def peaks(
    x: Tensor, real: Tensor | None, alive: Tensor | None, tile: int, eps: float, weights: Sequence[Tensor]
) -> Tensor:
    """Scores (B, N) of maps (B, C, H, W), by the layers of a ``PeakScorer``; ``real`` (B, 1, H, W) is no padding."""
    everywhere = weights[0]
    few, norm, around, peak, between, last, *deep = (weights[i : i + 2] for i in range(1, len(weights), 2))
    x = F.conv2d(x, *few).permute(0, 2, 3, 1)
    x = F.layer_norm(x, x.shape[-1:], *norm, eps).permute(0, 3, 1, 2)
    if real is not None:
        x = zero_beyond(x, real)
    x = F.gelu(x + F.conv2d(x, *around, padding=1, groups=x.shape[1]))
    for conv in deep:
        if real is not None:
            x = zero_beyond(x, real)
        x = F.gelu(x + F.conv2d(x, *conv, padding=1))
    if real is not None:
        x = x.masked_fill(~real, LEAST)
    x = F.max_pool2d(x, tile, ceil_mode=True).flatten(2).transpose(1, 2)  # (B, N, hidden)
    x = F.gelu(F.linear(x, *peak) + F.linear(mean_of_alive(x, alive), everywhere))
    return F.linear(F.gelu(F.linear(x, *between)), *last).squeeze(-1)
