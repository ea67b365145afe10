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
    return _conv_tiles(_rows(x), x.shape, weight, bias, idx, tile, dilation, groups)


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
    batch, channels, height, width = x.shape
    rows, grid = _rows(x), tuple(tile * n for n in tile_grid((height, width), tile))
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    out = x.new_empty(batch * grid[0] * grid[1], len(slow[0]), dtype=dtype)
    # Few tiles at a time stay in the processor's caches; each call packs the kernel anew, so not too few.
    count = max(1, 4 * slow[0].numel() // ((tile + 2 * _reach(slow[0], dilation)) ** 2 * channels))
    for part in keep_idx.split(count):
        kept = _conv_tiles(rows, x.shape, *slow, part, tile, dilation)
        out.index_copy_(0, _window(grid, part, tile, 0)[0], kept.view(-1, len(slow[0])))
    for part in rest_idx.split(count):
        rest = rows.index_select(0, _window((height, width), part, tile, 0)[0])
        out.index_copy_(0, _window(grid, part, tile, 0)[0], F.linear(rest, *fast))
    return out.view(batch, *grid, -1)[:, :height, :width].permute(0, 3, 1, 2)


def _conv_tiles(
    rows: Tensor,
    shape: torch.Size,
    weight: Tensor,
    bias: Tensor | None,
    idx: Tensor,
    tile: int,
    dilation: int,
    groups: int = 1,
) -> Tensor:
    """From the rows (B * H * W, C) of a map to (R, tile * tile * D)."""
    reach = _reach(weight, dilation)
    side, channels = tile + 2 * reach, rows.shape[1]
    where, outside = _window(shape[-2:], idx, tile, reach)
    patches = rows.index_select(0, where).masked_fill_(outside.unsqueeze(1), 0)
    if tile == 1 and groups == 1 and dilation == 1:  # one location each: a matrix product
        return F.linear(patches.view(len(idx), side * side * channels), weight.permute(0, 2, 3, 1).flatten(1), bias)
    patches = patches.view(len(idx), side, side, channels).permute(0, 3, 1, 2)  # channels-last memory
    out = F.conv2d(patches, weight, bias, dilation=dilation, groups=groups)  # (R, D, tile, tile)
    return out.permute(0, 2, 3, 1).flatten(1)


def _reach(weight: Tensor, dilation: int) -> int:
    """How far beyond a location the kernel looks."""
    return dilation * (weight.shape[-1] // 2)


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B * H * W, C); a view if the map is in channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _window(size: tuple[int, int], idx: Tensor, tile: int, halo: int) -> tuple[Tensor, Tensor]:
    """Where the locations of chosen tiles, each with a halo, are among the rows of maps of a size.

    Args:
        size: Height and width of the maps.
        idx: (R,) flat numbers of the tiles.
        tile: Locations along a side of a tile.
        halo: Locations around it.

    Returns:
        Row numbers (R * side * side), the nearest one for locations beyond the border, and which those are.
    """
    (height, width), (high, wide) = size, tile_grid(size, tile)
    image, place = idx // (high * wide), idx % (high * wide)
    step = torch.arange(-halo, tile + halo, device=idx.device)
    y = (place // wide * tile).unsqueeze(1) + step  # (R, side)
    x = (place % wide * tile).unsqueeze(1) + step
    outside = ((y < 0) | (y >= height)).unsqueeze(2) | ((x < 0) | (x >= width)).unsqueeze(1)
    row = image.unsqueeze(1) * height + y.clamp(0, height - 1)
    return (row.unsqueeze(2) * width + x.clamp(0, width - 1).unsqueeze(1)).flatten(), outside.flatten()
