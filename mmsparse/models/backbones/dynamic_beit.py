"""BEiT, whose attention adds biases by relative place; also what mmseg calls BEiT and MAE."""

from typing import Any

from mmpretrain.models import BEiTViT
from torch import Tensor, nn

from mmsparse.registry import MODELS

from .beit_weights import resized_table
from .positions import Grid, RelativeBias
from .routed_vit import RoutedViT
from .stock_attention import StockAttention, check_scale


@MODELS.register_module()
class DynamicBEiT(RoutedViT, BEiTViT):
    """BEiT with dynamic token routing; the class token is always selected.

    Dense parameters keep the names of ``mmpretrain.BEiTViT``, which are those of ``mmseg.BEiT`` and, with
    ``use_abs_pos_emb=True, bias=True``, of ``mmseg.MAE``. The stock classes take pictures of ``img_size`` alone; this
    one takes smaller ones, too, where relative places are what they are in a large one.

    Args:
        sparsity, with_cp: As for :class:`DynamicViT`.
        kwargs: Arguments of ``mmpretrain.BEiTViT``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_scale("DynamicBEiT", self.layers)
        self._relative = any(self._positions(layer) is not None for layer in self.layers)
        if self._relative and self.cls_token is None:
            raise ValueError(
                "DynamicBEiT: expected argument `with_cls_token` to be True with relative positions, whose tables hold "
                "those of the class token, but got False. Or give use_rel_pos_bias=False, use_shared_rel_pos_bias=False"
            )

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        x, grid = super()._embed(x)
        if self._relative and any(side > most for side, most in zip(grid, self.patch_resolution, strict=True)):
            (height, width), (down, right) = self.patch_resolution, grid
            raise ValueError(
                f"DynamicBEiT: its relative positions are those of maps of up to {height}x{width} tokens (argument "
                f"`img_size`), but a picture has {down}x{right}. Build it with a larger `img_size`, or test in parts "
                "of that size (test_cfg=dict(mode='slide', ...))"
            )
        return x, grid

    def _prepare_relative_position_bias_table(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        """Before the stock class shares them out, tables of a map of another size are resized."""
        own, size = self.state_dict(), self.patch_resolution
        for key in [key for key in state if key.startswith(prefix) and key.endswith("relative_position_bias_table")]:
            if len(state[key]) == (2 * size[0] - 1) * (2 * size[1] - 1) + 3:
                continue
            state[key] = resized_table(state[key], size)
            index = key.replace("bias_table", "index")
            if index in state:
                state[index] = own.get(index.removeprefix(prefix), state[index])
        super()._prepare_relative_position_bias_table(state, prefix, *args)

    def _attn(self, layer: nn.Module) -> StockAttention:
        return StockAttention(layer.attn, layer.drop_path, layer.gamma_1)

    def _feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        added = layer.ffn(layer.norm2(x))
        return x + layer.drop_path(added if layer.gamma_2 is None else layer.gamma_2 * added)

    def _positions(self, layer: nn.Module) -> RelativeBias | None:
        attn, shared = layer.attn, self.rel_pos_bias
        if attn.relative_position_bias_table is not None:
            return RelativeBias(attn.relative_position_bias_table, attn.window_size)
        return None if shared is None else RelativeBias(shared.relative_position_bias_table, shared.window_size)
