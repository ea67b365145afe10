"""The convolutions at tiles on a GPU: what is registered. The Triton kernel itself is in ``sparse_conv_triton``."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from .conv_cpu import fast_into
from .operator import OPERATORS
from .tiles import empty_rows, map_rows, size_of

HAS_TRITON = find_spec("triton") is not None


def runs_on(rows: Tensor) -> bool:
    """Plain operators serve float64, older GPUs and those without Triton."""
    if not HAS_TRITON or rows.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return False
    return not rows.is_cuda or torch.cuda.get_device_properties(rows.device).major >= 8


@OPERATORS["slow_fast_conv2d"].kernel("cuda", suits=lambda x, **_: runs_on(x), name="triton")
def _slow_fast_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    fast_weight: Tensor,
    fast_bias: Tensor | None,
    means: Tensor | None,
    keep: Tensor,
    rest: Tensor,
    inverse: Tensor,
    tile: int,
    dilation: int,
) -> Tensor:
    from .sparse_conv_triton import conv_into  # not before there is a GPU

    rows, size, out = map_rows(x), size_of(x), empty_rows(x, tile, len(weight))
    conv_into(out, rows, size, weight, bias, keep, tile, dilation, to_map=True)
    if means is not None:
        fast_into(out, rows, size, fast_weight, fast_bias, means, rest, tile)
    else:
        conv_into(out, rows, size, fast_weight[:, :, None, None], fast_bias, rest, tile, 1, to_map=True)
    return out


def _suits_sparse(rows: Tensor, groups: int, **_: Any) -> bool:
    return runs_on(rows) and groups == 1


@OPERATORS["sparse_conv2d"].kernel("cuda", suits=_suits_sparse, name="triton")
def _sparse_conv2d(
    rows: Tensor,
    height: int,
    width: int,
    weight: Tensor,
    bias: Tensor | None,
    idx: Tensor,
    tile: int,
    dilation: int,
    groups: int,
) -> Tensor:
    from .sparse_conv_triton import conv_into

    out = rows.new_empty(len(idx), tile**2 * len(weight))
    conv_into(out, rows, (height, width), weight, bias, idx, tile, dilation, to_map=False)
    return out
