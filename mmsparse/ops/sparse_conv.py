"""A convolution evaluated at chosen tiles of a map only.

A map (H, W) is cut into square tiles of ``tile`` x ``tile`` locations, the last ones of a row or column reaching over
the border. The chosen tiles are read with their halo and go through the dense kernel as a batch, so nothing is
multiplied that nobody asked for. All of it is plain PyTorch: counters, compilers and exporters see what it does.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def tile_grid(size: tuple[int, int], tile: int) -> tuple[int, int]:
    """How many tiles cover a map, along its height and width."""
    return math.ceil(size[0] / tile), math.ceil(size[1] / tile)


def to_tiles(x: Tensor, tile: int) -> Tensor:
    """A map (B, C, H, W) as rows (B * tiles, tile * tile * C), filled up with zeros beyond its border."""
    high, wide = tile_grid(x.shape[-2:], tile)
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, wide * tile - x.shape[-1], 0, high * tile - x.shape[-2]))
    return x.reshape(len(x), high, tile, wide, tile, -1).transpose(2, 3).reshape(len(x) * high * wide, -1)


def from_tiles(tiles: Tensor, shape: torch.Size, tile: int) -> Tensor:
    """The map (B, D, H, W) of rows (B * tiles, tile * tile * D); ``shape`` is that of the map they came from."""
    batch, _, height, width = shape
    high, wide = tile_grid((height, width), tile)
    x = tiles.view(batch, high, wide, tile, tile, -1).transpose(2, 3).reshape(batch, high * tile, wide * tile, -1)
    return x[:, :height, :width].permute(0, 3, 1, 2)


def sparse_conv2d_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, idx: Tensor, tile: int = 1, dilation: int = 1, groups: int = 1
) -> Tensor:
    """What ``sparse_conv2d`` gives: the dense convolution, cut and chosen from; zero beyond the border."""
    dense = F.conv2d(x, weight, bias, padding=_reach(weight, dilation), dilation=dilation, groups=groups)
    return to_tiles(dense, tile).index_select(0, idx)


def sparse_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, idx: Tensor, tile: int = 1, dilation: int = 1, groups: int = 1
) -> Tensor:
    """The outputs of a convolution of stride 1 that keeps the size of its map, at the chosen tiles.

    Args:
        x: (B, C, H, W).
        weight: (D, C / groups, k, k), k odd; padded by dilation * (k - 1) / 2.
        bias: (D,) or None.
        idx: Flat numbers of the chosen tiles into (B * tiles high * tiles wide).
        tile: Locations along a side of a tile.
        dilation: Of the kernel.
        groups: Of the channels.

    Returns:
        (R, tile * tile * D), for each chosen tile its locations row by row. Beyond the border of the map it holds what
        the convolution gives there.
    """
    reach = _reach(weight, dilation)
    return _conv_tiles(_padded(x, tile, reach), x.shape, weight, bias, idx, tile, dilation, groups)


def slow_fast_conv2d(
    x: Tensor,
    slow: tuple[Tensor, Tensor | None],
    fast: tuple[Tensor, Tensor | None],
    keep_idx: Tensor,
    rest_idx: Tensor,
    tile: int = 1,
    dilation: int = 1,
) -> Tensor:
    """A whole map: of the tiles ``keep_idx`` by ``sparse_conv2d``, of the others by a 1x1 convolution.

    Args:
        x: (B, C, H, W).
        slow: Weight (D, C, k, k) and bias of the convolution.
        fast: Weight (D, C) and bias of the 1x1 convolution.
        keep_idx: Flat numbers of the slow tiles.
        rest_idx: All others.
        tile: Locations along a side of a tile.
        dilation: Of the kernel.
    """
    batch, _, height, width = x.shape
    high, wide = (tile * n for n in tile_grid((height, width), tile))
    reach = _reach(slow[0], dilation)
    padded = _padded(x, tile, reach)
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    rows = x.new_empty(batch * high * wide, len(slow[0]), dtype=dtype)
    # Few tiles at a time stay in the processor's caches; each call packs the kernel anew, so not too few.
    count = max(1, 4 * slow[0].numel() // ((tile + 2 * reach) ** 2 * padded.shape[1]))
    for part in keep_idx.split(count):
        kept = _conv_tiles(padded, x.shape, *slow, part, tile, dilation)
        rows.index_copy_(0, _window_rows(x.shape, part, tile, 0, 0), kept.view(-1, len(slow[0])))
    for part in rest_idx.split(count):
        rest = F.linear(padded.index_select(0, _window_rows(x.shape, part, tile, reach, 0)), *fast)
        rows.index_copy_(0, _window_rows(x.shape, part, tile, 0, 0), rest)
    return rows.view(batch, high, wide, -1)[:, :height, :width].permute(0, 3, 1, 2)


def _conv_tiles(
    padded: Tensor,
    shape: torch.Size,
    weight: Tensor,
    bias: Tensor | None,
    idx: Tensor,
    tile: int,
    dilation: int,
    groups: int = 1,
) -> Tensor:
    """From the rows of a padded map to (R, tile * tile * D)."""
    reach = _reach(weight, dilation)
    side, channels = tile + 2 * reach, padded.shape[1]
    patches = padded.index_select(0, _window_rows(shape, idx, tile, reach, reach))
    if tile == 1 and groups == 1 and dilation == 1:  # one location each: a matrix product
        return F.linear(patches.view(len(idx), side * side * channels), weight.permute(0, 2, 3, 1).flatten(1), bias)
    patches = patches.view(len(idx), side, side, channels).permute(0, 3, 1, 2)  # channels-last memory
    out = F.conv2d(patches, weight, bias, dilation=dilation, groups=groups)  # (R, D, tile, tile)
    return out.permute(0, 2, 3, 1).flatten(1)


def _reach(weight: Tensor, dilation: int) -> int:
    """How far beyond a location the kernel looks."""
    return dilation * (weight.shape[-1] // 2)


def _padded(x: Tensor, tile: int, reach: int) -> Tensor:
    """The map with a border of zeros such that every tile has its halo, as rows (B * high * wide, C)."""
    high, wide = tile_grid(x.shape[-2:], tile)
    below, right = high * tile - x.shape[-2], wide * tile - x.shape[-1]
    return F.pad(x.permute(0, 2, 3, 1), (0, 0, reach, right + reach, reach, below + reach)).flatten(0, 2)


def _window_rows(shape: torch.Size, idx: Tensor, tile: int, border: int, halo: int) -> Tensor:
    """Row numbers of the locations of the chosen tiles, with a halo around each, in a map with a border."""
    high, wide = tile_grid(shape[-2:], tile)
    width = wide * tile + 2 * border
    image, place = idx // (high * wide), idx % (high * wide)
    top = image * (high * tile + 2 * border) + place // wide * tile + border - halo
    side = torch.arange(tile + 2 * halo, device=idx.device)
    within = side.view(-1, 1) * width + side
    return ((top * width + place % wide * tile + border - halo).view(-1, 1) + within.view(1, -1)).flatten()
