"""A map with other values at chosen tiles."""

import torch
from torch import Tensor

from . import static
from .operator import exporting
from .rows import Rows, put_together
from .tiles import from_tiles, size_of, to_tiles, window_of


def put_tiles(x: Tensor, tiles: Tensor, rows: Rows, tile: int) -> Tensor:
    """A map (B, C, H, W) with other values (R, tile * tile * C) at the tiles ``rows.keep``."""
    if exporting():
        return static.put_tiles(x, tiles, rows, tile)
    if torch.compiler.is_compiling():
        rest = to_tiles(x, tile).index_select(0, rows.rest)
        return from_tiles(put_together(tiles, rest, rows.inverse), x.shape, tile)
    where, outside = window_of(size_of(x), rows.keep, tile, 0)
    values = tiles.view(-1, x.shape[1])
    if any(side % tile for side in size_of(x)):
        inside = (~outside).nonzero().squeeze(1)
        where, values = where[inside], values[inside]
    out = x.permute(0, 2, 3, 1).flatten(0, 2).clone(memory_format=torch.contiguous_format)
    out.index_copy_(0, where, values.to(out.dtype))
    return out.view(len(x), *size_of(x), -1).permute(0, 3, 1, 2)
