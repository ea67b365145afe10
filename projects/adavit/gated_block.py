"""A transformer block of which each picture uses some heads and layers: with gates, and on those pictures alone."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmsparse.ops import Groups, attention_rows

from .choices import Gates


def gated_block(layer: nn.Module, x: Tensor, gates: Gates, mix: Callable[[Any, Tensor], Tensor]) -> Tensor:
    """The block on (B, n, C) with everything computed, and what is skipped times zero.

    Args:
        layer: The stock layer.
        x: What it is given.
        gates: What is used.
        mix: The attention to call, of an attention layer and tokens.
    """
    with_attention, with_ffn = gates.layers.to(x.dtype)[..., None, None].unbind(1)  # (B, 1, 1)
    mixed = mix(_Headed(layer.attn, gates.heads), layer.ln1(x))
    x = x + with_attention * layer.attn.out_drop(mixed)
    return x + with_ffn * layer.ffn(layer.ln2(x), identity=x.new_zeros(()))


class _Headed:
    """An attention layer whose heads contribute as much as their gates (B, heads) say."""

    def __init__(self, attn: nn.Module, heads: Tensor) -> None:
        self._attn = attn
        self._heads = heads.repeat_interleave(attn.head_dims, dim=1).unsqueeze(1)  # (B, 1, C)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attn, name)

    def proj(self, mixed: Tensor) -> Tensor:
        return self._attn.proj(mixed * self._heads.to(mixed.dtype))


def thrifty_block(layer: nn.Module, rows: Tensor, images: Tensor, gates: Gates) -> Tensor:
    """The same on rows (R, C) of pictures ``images`` (R,), computing what is used."""
    with_attention, with_ffn = gates.layers.bool().unbind(1)
    if len(index := with_attention[images].nonzero().squeeze(1)):
        mixed = _used_heads(layer.attn, layer.ln1(rows[index]), images[index], gates.heads.bool())
        rows = rows.index_add(0, index, layer.attn.out_drop(mixed).to(rows.dtype))
    if len(index := with_ffn[images].nonzero().squeeze(1)):
        some = rows[index]
        rows = rows.index_copy(0, index, layer.ffn(layer.ln2(some), identity=some).to(rows.dtype))
    return rows


def _used_heads(attn: nn.Module, rows: Tensor, images: Tensor, heads: Tensor) -> Tensor:
    """Attention of rows (R, C) among those of their pictures, head by head on the pictures that use it (B, heads)."""
    dims = attn.head_dims
    weights = attn.qkv.weight.view(3, attn.num_heads, dims, -1)
    biases = None if attn.qkv.bias is None else attn.qkv.bias.view(3, attn.num_heads, dims)
    mixed = rows.new_zeros(rows.shape)
    for head, used in enumerate(heads.unbind(1)):
        if not len(index := used[images].nonzero().squeeze(1)):
            continue
        bias = None if biases is None else biases[:, head].flatten()
        query, key_value = F.linear(rows[index], weights[:, head].flatten(0, 1), bias).split([dims, 2 * dims], dim=1)
        own = attention_rows(query, key_value, 1, Groups.of(images[index]))
        projected = F.linear(own, attn.proj.weight[:, head * dims : (head + 1) * dims])
        mixed = mixed.index_add(0, index, projected.to(mixed.dtype))
    return attn.gamma1(attn.proj_drop(mixed if attn.proj.bias is None else mixed + attn.proj.bias))
