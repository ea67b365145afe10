"""EVA-02, whose queries and keys are turned by angles of their places."""

import copy
from typing import Any

from mmpretrain.models import ViTEVA02
from torch import Tensor, nn

from mmsparse.registry import MODELS

from .positions import Grid, Rotary
from .routed_vit import RoutedViT
from .stock_attention import StockAttention, check_scale


@MODELS.register_module()
class DynamicViTEVA02(RoutedViT, ViTEVA02):
    """EVA-02 with dynamic token routing.

    Dense parameters keep the names of ``mmpretrain.ViTEVA02``.

    Args:
        sparsity, with_cp: As for :class:`DynamicViT`.
        kwargs: Arguments of ``mmpretrain.ViTEVA02``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_scale("DynamicViTEVA02", self.layers)
        for layer in self.layers:
            layer.attn.rope = copy.deepcopy(layer.attn.rope)  # exporters lose track of modules that are in two places

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        x, grid = super()._embed(x)
        return self.pre_norm(x), grid

    def _attn(self, layer: nn.Module) -> StockAttention:
        return StockAttention(layer.attn, layer.drop_path)

    def _feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        return x + layer.drop_path(layer.mlp(layer.norm2(x)))

    def _positions(self, layer: nn.Module) -> Rotary | None:
        rope = layer.attn.rope
        return Rotary(rope) if rope else None
