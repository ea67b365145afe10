"""All rows out of two paths: a block's feed-forward network for those that are kept, norm and linear for the rest."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .operator import Operator, autocasts, cast_for_autocast
from .rows import Rows, put_together

ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")
Layer = tuple[Tensor, Tensor | None]  # weight and bias


class FeedForward(NamedTuple):
    """Layer norm, linear, activation, perhaps global response normalisation, linear, perhaps a scale.

    Args:
        norm: Of the layer norm (C,).
        eps: Its epsilon.
        first: Weight (D, C) and bias of the linear layer behind it.
        second: Weight (C, D) and bias of the other one.
        activation: One of "gelu", "gelu_tanh", "relu" and "silu".
        scale: (C,), what comes out is multiplied by; None: nothing.
        grn: Gamma and beta (D,) of the normalisation, with statistics of each picture over its kept rows.
        grn_eps: Its epsilon.
    """

    norm: tuple[Tensor, Tensor]
    eps: float
    first: Layer
    second: Layer
    activation: str = "gelu"
    scale: Tensor | None = None
    grn: tuple[Tensor, Tensor] | None = None
    grn_eps: float = 1e-6


class NormLinear(NamedTuple):
    """Layer norm (C,) with its epsilon, and a linear layer."""

    norm: tuple[Tensor, Tensor]
    eps: float
    linear: Layer


def slow_fast_ffn(
    rows: Tensor, where: Rows, slow: FeedForward, fast: NormLinear | None, counts: int | Sequence[int] = ()
) -> Tensor:
    """All rows (R, C): the kept ones through ``slow``, the others through ``fast``.

    Args:
        rows: (R, C).
        where: Which rows are kept.
        slow: The expressive path.
        fast: The light path; None: zeros.
        counts: How many rows are kept of each picture, one number if that is the same; read by ``slow.grn`` alone.
    """
    if slow.activation not in ACTIVATIONS:
        raise ValueError(f"Expected `activation` to be one of {ACTIVATIONS}, but got {slow.activation!r}")
    learning = autocasts(rows) and torch.is_grad_enabled()
    first, second, light = (
        layer if learning or layer is None else cast_for_autocast(*layer)
        for layer in (slow.first, slow.second, None if fast is None else fast.linear)
    )
    args = (
        *(rows, *where, *slow.norm, slow.eps, *first, slow.activation),
        *((None, None) if slow.grn is None else slow.grn),
        *(slow.grn_eps, [counts] if isinstance(counts, int) else list(counts), *second, slow.scale),
        *((None, None, 0.0, None, None) if fast is None else (*fast.norm, fast.eps, *light)),
    )
    return _plain(*args) if learning else _operator(*args)  # autograd casts layer by layer


def _plain(
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
    grn_gamma: Tensor | None,
    grn_beta: Tensor | None,
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
    # (1, R, C), of which OpenVINO takes a normalisation and what makes it integers as one
    kept = F.layer_norm(rows.index_select(0, keep).unsqueeze(0), rows.shape[1:], norm_weight, norm_bias, eps)
    kept = activate(F.linear(kept.to(first_weight.dtype), first_weight, first_bias), activation).squeeze(0)
    if grn_gamma is not None:
        kept = _normalize_response(kept, counts, grn_gamma, grn_beta, grn_eps)
    kept = F.linear(kept, second_weight, second_bias)
    if scale is not None:
        kept = kept * scale
    if fast_weight is None:
        others = kept.new_zeros(rest.shape[0], kept.shape[1])
    else:
        others = rows.index_select(0, rest).unsqueeze(0)
        others = F.layer_norm(others, rows.shape[1:], fast_norm_weight, fast_norm_bias, fast_eps)
        others = F.linear(others.to(fast_weight.dtype), fast_weight, fast_bias).squeeze(0)
    return put_together(kept, others, inverse)


def activation_name(layer: nn.Module) -> str | None:
    """What ``FeedForward.activation`` says of a layer; None if it is none of them."""
    if type(layer) is nn.GELU:
        return "gelu" if layer.approximate == "none" else "gelu_tanh"
    return {nn.ReLU: "relu", nn.SiLU: "silu"}.get(type(layer))


def activate(hidden: Tensor, activation: str) -> Tensor:
    if activation == "relu":
        return F.relu(hidden)
    if activation == "silu":
        return F.silu(hidden)
    return F.gelu(hidden, approximate="tanh" if activation == "gelu_tanh" else "none")


def _normalize_response(hidden: Tensor, counts: Sequence[int], gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """ConvNeXt v2's, of packed rows (R, D) of pictures in turn."""
    if hidden.shape[0] == 0:
        return hidden
    pictures = [hidden.unflatten(0, (-1, counts[0]))] if len(counts) == 1 else hidden.split(list(counts))
    normalized = []
    for rows in pictures:  # (count, D) of one, or (B, count, D) of all
        norms = rows.norm(dim=-2, keepdim=True)
        normalized.append(gamma * (rows * (norms / (norms.mean(dim=-1, keepdim=True) + eps))) + beta + rows)
    return torch.cat(normalized).flatten(0, -2)


def _flops(keep: Any, rest: Any, first_weight: Any, second_weight: Any, fast_weight: Any, **_: Any) -> int:
    of_kept, of_other = first_weight.numel() + second_weight.numel(), 0 if fast_weight is None else fast_weight.numel()
    return 2 * (keep[0] * of_kept + rest[0] * of_other)


_operator = Operator("slow_fast_ffn", _plain, _flops)
