"""Operators on chosen locations. Tensors in, tensors out; nothing here decides anything."""

from .attention import Groups, attention_rows
from .feed_forward import FeedForward, NormLinear, activation_name, slow_fast_ffn
from .of_thread import OfThread
from .operator import EXPORT, OPERATORS, Kernel, Operator, exporting, opaque, recomputed
from .rows import Rows, inverse_of, put_together
from .slow_fast import slow_fast_conv2d, slow_fast_rows
from .sparse_conv import sparse_conv2d, sparse_conv2d_reference
from .tiles import (
    as_map,
    from_tiles,
    map_rows,
    once_for,
    remembered,
    size_of,
    tile_grid,
    tile_means,
    tile_rows,
    tiles_at,
    to_tiles,
    whole_grid,
    window_of,
    zero_beyond,
)

from . import conv_cpu, conv_triton, feed_forward_cpu, static, winograd  # isort: skip  # they register kernels
from .placing import put_tiles  # isort: skip
from .static import for_integers  # isort: skip

__all__ = [
    "EXPORT",
    "OPERATORS",
    "FeedForward",
    "Groups",
    "Kernel",
    "NormLinear",
    "OfThread",
    "Operator",
    "Rows",
    "activation_name",
    "as_map",
    "attention_rows",
    "conv_cpu",
    "conv_triton",
    "exporting",
    "feed_forward_cpu",
    "for_integers",
    "from_tiles",
    "inverse_of",
    "map_rows",
    "once_for",
    "opaque",
    "put_tiles",
    "put_together",
    "recomputed",
    "remembered",
    "size_of",
    "slow_fast_conv2d",
    "slow_fast_ffn",
    "slow_fast_rows",
    "sparse_conv2d",
    "sparse_conv2d_reference",
    "static",
    "tile_grid",
    "tile_means",
    "tile_rows",
    "tiles_at",
    "to_tiles",
    "whole_grid",
    "window_of",
    "winograd",
    "zero_beyond",
]
