"""The attention layers of stock plain transformers, under the names of mmpretrain's ``MultiheadAttention``."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Projection:
    """A linear layer whose bias is made of parameters of its own."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class StockAttention:
    """What routing reads of an attention layer.

    Args:
        layer: The stock layer, which projects in ``qkv`` and ``proj``.
        drop_path: Its block's stochastic depth; None: there is none.
        scale: Its block's factor for each channel of what attention adds; None: one.
    """

    layer: nn.Module
    drop_path: nn.Module | None = None
    scale: Tensor | None = None

    @property
    def qkv(self) -> Any:
        """BEiT has biases for queries and values alone."""
        bias = getattr(self.layer, "q_bias", None)
        if bias is None:
            return self.layer.qkv
        value = self.layer.v_bias
        return Projection(self.layer.qkv.weight, torch.cat([bias, torch.zeros_like(value), value]))

    @property
    def num_heads(self) -> int:
        return self.layer.num_heads

    @property
    def embed_dims(self) -> int:
        return self.layer.qkv.in_features

    @property
    def head_dims(self) -> int:
        return self.embed_dims // self.num_heads

    @property
    def training(self) -> bool:
        return self.layer.training

    @property
    def attn_drop(self) -> float:
        return self.layer.attn_drop.p if hasattr(self.layer, "attn_drop") else 0.0

    def proj(self, x: Tensor) -> Tensor:
        return self.layer.proj(x)

    def proj_drop(self, x: Tensor) -> Tensor:
        return self.layer.proj_drop(x) if hasattr(self.layer, "proj_drop") else x

    def gamma1(self, x: Tensor) -> Tensor:
        return x if self.scale is None else self.scale * x

    def out_drop(self, x: Tensor) -> Tensor:
        return x if self.drop_path is None else self.drop_path(x)


def check_scale(name: str, layers: nn.ModuleList) -> None:
    """Refuse products of queries and keys that are scaled otherwise than by the root of a head's channels."""
    for layer in layers:
        dims = layer.attn.qkv.in_features // layer.attn.num_heads
        if abs(layer.attn.scale - dims**-0.5) > 1e-6:
            raise ValueError(
                f"{name}: argument `layer_cfgs` has qk_scale={layer.attn.scale}, but routed attention scales by "
                f"{dims**-0.5:.4g}, one over the root of {dims} channels of a head. Remove it"
            )
