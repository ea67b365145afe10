"""The feed-forward network on a processor: few rows at a time, so that what is between stays in its caches."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .operator import OPERATORS

LARGE = 1 << 20  # numbers of the rows of a block, hidden ones included
FEWEST = 1024  # rows of a block, however wide: each call packs the weights anew


def _suits(rows: Tensor, grn_gamma: Tensor | None, **_: Any) -> bool:
    """What normalises responses needs all of a picture's; a single block has nothing to gain."""
    return grn_gamma is None and rows.shape[0] > FEWEST


@OPERATORS["slow_fast_ffn"].kernel("cpu", suits=_suits, name="blocks")
def _slow_fast_ffn(
    rows: Tensor,
    keep: Tensor,
    rest: Tensor,
    inverse: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    first_weight: Tensor,
    first_bias: Tensor | None,
    activation: str,
    grn_gamma: None,
    grn_beta: None,
    grn_eps: float,
    counts: Sequence[int],
    second_weight: Tensor,
    second_bias: Tensor | None,
    scale: Tensor | None,
    fast_norm_weight: Tensor | None,
    fast_norm_bias: Tensor | None,
    fast_eps: float,
    fast_weight: Tensor | None,
    fast_bias: Tensor | None,
) -> Tensor:
    (hidden, width), shape, dtype = first_weight.shape, rows.shape[1:], first_weight.dtype
    out = rows.new_empty(rows.shape, dtype=dtype if scale is None else torch.promote_types(dtype, scale.dtype))
    count = max(1, min(len(keep), max(FEWEST, LARGE // (hidden + width))))
    memory = [first_weight.new_empty(count, n) for n in (hidden, width)]  # of all blocks: fresh pages cost time
    for part in keep.split(count):
        between, done = (m[: len(part)] for m in memory)
        kept = F.layer_norm(rows.index_select(0, part), shape, norm_weight, norm_bias, eps).to(dtype)
        _linear_into(between, kept, first_weight, first_bias)
        _linear_into(done, _activate_(between, activation), second_weight, second_bias)
        out.index_copy_(0, part, done if scale is None else done * scale)
    if fast_weight is None:
        return out.index_fill_(0, rest, 0)
    for part in rest.split(max(FEWEST, LARGE // (2 * width))):
        others = F.layer_norm(rows.index_select(0, part), shape, fast_norm_weight, fast_norm_bias, fast_eps).to(dtype)
        out.index_copy_(0, part, F.linear(others, fast_weight, fast_bias).to(out.dtype))
    return out


def _linear_into(out: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    if bias is None:
        torch.mm(rows, weight.t(), out=out)
    else:
        torch.addmm(bias, rows, weight.t(), out=out)


def _activate_(hidden: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return hidden.relu_()
    if activation == "silu":
        return F.silu(hidden, inplace=True)
    return torch.ops.aten.gelu_(hidden, approximate="tanh" if activation == "gelu_tanh" else "none")
