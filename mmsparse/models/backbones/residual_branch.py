"""The residual branch of a stock ResNet block, evaluated at chosen tiles."""

from typing import NamedTuple

import torch
import torch.distributed.nn.functional as across
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

from mmsparse.ops import exporting, map_rows, size_of, sparse_conv2d, to_tiles, window_of


class Layer(NamedTuple):
    """A convolution, its norm (an identity where that was fused), and whether an activation follows."""

    conv: nn.Conv2d
    norm: nn.Module
    activates: bool

    @property
    def reach(self) -> int:
        return self.conv.dilation[0] * (self.conv.kernel_size[0] // 2)


def layers_of(block: nn.Module) -> list[Layer]:
    """Those of a basic block or a bottleneck."""
    count = 3 if hasattr(block, "conv3") else 2
    pairs = [(getattr(block, f"conv{i}"), getattr(block, f"norm{i}")) for i in range(1, count + 1)]
    return [Layer(*pair, activates=pair != pairs[-1]) for pair in pairs]


def objection_to(block: nn.Module) -> str | None:
    """Why a block cannot be routed; None if it can."""
    if block.downsample is not None or block.stride != 1:
        return "it changes the size or the width of its map"
    if getattr(block, "with_dcn", False):
        return "its convolution is deformable (argument `dcn`)"
    if any(getattr(block, f"after_conv{i}_plugin_names", ()) for i in (1, 2, 3)):
        return "it has plugins, which see whole maps (argument `plugins`)"
    for layer in layers_of(block):
        if type(layer.conv) is not nn.Conv2d:
            return f"its convolutions are {type(layer.conv).__name__} (argument `conv_cfg`)"
        if not isinstance(layer.norm, _BatchNorm | nn.Identity):
            return (
                f"its norms are {type(layer.norm).__name__}, whose statistics are of whole maps (argument `norm_cfg`)"
            )
    return None


class Branch:
    """The residual branch of a block on a map, tile by tile.

    Each tile is read with the halo that all of its convolutions need. What the first of them gives is computed on the
    whole map instead, where the halos would make more of it. A batch norm in training takes its statistics from the
    locations of the tiles that are asked for first, each once, whatever is in their halos; tiles that are asked for
    later see the same statistics.

    Args:
        block: The stock block, without a stride.
        x: The map (B, C, H, W).
        tile: Locations along a side of a tile.
        tiles: How many tiles the maps have.
    """

    def __init__(self, block: nn.Module, x: Tensor, tile: int, tiles: int) -> None:
        self.layers = layers_of(block)
        self.x = x
        self.tile = tile
        self.tiles = tiles
        self._statistics: list[tuple[Tensor, Tensor]] = []  # of the norms in training

    def __call__(self, idx: Tensor) -> Tensor:
        """Of the tiles of these numbers (R, tile * tile * C)."""
        seen, left = list(self._statistics), sum(layer.reach for layer in self.layers)  # left of the halo
        everything = len(idx) == self.tiles and not seen
        out, is_map = self.x, True
        for layer in self.layers:
            left -= layer.reach
            learns = _learns(layer.norm)
            weight, bias = (layer.conv.weight, layer.conv.bias) if learns else _with_norm(layer)
            longer = len(idx) * (self.tile + 2 * left) ** 2 >= self.x[:, 0].numel()
            if everything or (is_map and longer and not learns):
                out = _everywhere(out, layer, weight, bias)
            else:
                out, is_map = self._at(out, layer, weight, bias, idx, left, is_map), False
            if learns:
                if not seen:
                    inner = out if is_map else self._inner(out, idx, left)
                    self._statistics.append(_batch_statistics(layer.norm, inner))
                out = _normed(out, layer.norm, *(seen.pop(0) if seen else self._statistics[-1]))
            if layer.activates:
                out = out.relu()
            if left and not is_map:
                out = out.masked_fill(self._outside(idx, left), 0)
        return to_tiles(out, self.tile).index_select(0, idx) if is_map else out.permute(0, 2, 3, 1).flatten(1)

    def _at(
        self, x: Tensor, layer: Layer, weight: Tensor, bias: Tensor | None, idx: Tensor, left: int, is_map: bool
    ) -> Tensor:
        """A convolution at tiles with what is left of their halo (R, D, side, side), of the map or of windows of it."""
        groups, dilation = layer.conv.groups, layer.conv.dilation[0]
        if is_map and not left:
            rows = sparse_conv2d(x, weight, bias, idx, self.tile, dilation, groups)
            return rows.view(len(idx), self.tile, self.tile, len(weight)).permute(0, 3, 1, 2)
        if is_map:
            halo = left + layer.reach
            where, outside = window_of(size_of(x), idx, self.tile, halo)
            rows, side = map_rows(x).index_select(0, where), self.tile + 2 * halo
            rows = rows.masked_fill(outside.unsqueeze(1), 0) if layer.reach else rows
            x = rows.view(len(idx), side, side, x.shape[1]).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, bias, dilation=dilation, groups=groups)

    def _outside(self, idx: Tensor, halo: int) -> Tensor:
        """Which locations of tiles with a halo lie beyond the border (R, 1, side, side)."""
        side = self.tile + 2 * halo
        return window_of(size_of(self.x), idx, self.tile, halo)[1].view(-1, 1, side, side)

    def _inner(self, windows: Tensor, idx: Tensor, halo: int) -> Tensor:
        """What of windows with a halo lies in the tiles and on the map (1, D, locations)."""
        inner = windows[:, :, halo : windows.shape[2] - halo, halo : windows.shape[3] - halo]
        return inner.permute(1, 0, 2, 3)[:, ~self._outside(idx, 0).squeeze(1)].unsqueeze(0)


def _everywhere(x: Tensor, layer: Layer, weight: Tensor, bias: Tensor | None) -> Tensor:
    conv = layer.conv
    if exporting() and not layer.reach and conv.groups == 1:  # rows stay rows
        rows = F.linear(map_rows(x), weight.flatten(1), bias)
        return rows.view(len(x), *size_of(x), len(weight)).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, bias, padding=layer.reach, dilation=conv.dilation, groups=conv.groups)


def _learns(norm: nn.Module) -> bool:
    return isinstance(norm, _BatchNorm) and (norm.training or norm.running_mean is None)


def _with_norm(layer: Layer) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution and its evaluated norm in one."""
    conv, norm = layer.conv, layer.norm
    if not isinstance(norm, _BatchNorm):
        return conv.weight, conv.bias
    scale, shift = _affine(norm, norm.running_mean, norm.running_var)
    return conv.weight * scale.view(-1, 1, 1, 1), shift if conv.bias is None else shift + conv.bias * scale


def _affine(norm: _BatchNorm, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """By what a norm multiplies, and what it adds."""
    scale = (var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    return scale, -mean * scale if norm.bias is None else norm.bias - mean * scale


def _normed(x: Tensor, norm: _BatchNorm, mean: Tensor, var: Tensor) -> Tensor:
    scale, shift = (each.view(1, -1, 1, 1).to(x.dtype) for each in _affine(norm, mean, var))
    return x * scale + shift


def _batch_statistics(norm: _BatchNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of (B, D, ...), which the norm remembers.

    They are over all processes if it is a synchronised norm. However many locations a process has, it asks for the
    same sums as the others.
    """
    many = isinstance(norm, SyncBatchNorm) and distributed.is_initialized() and distributed.get_world_size() > 1

    def total(values: Tensor) -> Tensor:
        return across.all_reduce(values) if many else values

    columns = x.flatten(2).transpose(0, 1).flatten(1).to(torch.promote_types(x.dtype, torch.float32))  # (D, locations)
    sums = total(torch.cat([columns.sum(dim=1), columns.new_tensor([columns.shape[1]])]))
    count = sums[-1].detach()
    mean = sums[:-1] / count.clamp_min(1)
    var = total((columns - mean.unsqueeze(1)).square().sum(dim=1)) / count.clamp_min(1)
    if not count:
        return norm.running_mean, norm.running_var
    if norm.track_running_stats:
        with torch.no_grad():
            norm.num_batches_tracked += 1
            rate = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(mean.to(norm.running_mean), rate)
            norm.running_var.lerp_((var * count / (count - 1).clamp_min(1)).to(norm.running_var), rate)
    return mean, var
