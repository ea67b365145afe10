"""Operators on chosen locations. Tensors in, tensors out; nothing here decides anything."""

from .slow_fast import slow_fast_conv2d
from .sparse_conv import sparse_conv2d, sparse_conv2d_reference
from .tiles import from_tiles, tile_grid, to_tiles

__all__ = ["from_tiles", "slow_fast_conv2d", "sparse_conv2d", "sparse_conv2d_reference", "tile_grid", "to_tiles"]
