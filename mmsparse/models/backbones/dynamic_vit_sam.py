"""The image encoder of SAM, in the blocks of ViTDet: windows, some blocks global, decomposed relative positions."""

from typing import Any

from mmpretrain.models import ViTSAM
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from mmsparse.registry import MODELS

from .positions import DecomposedBias, Grid
from .routed_vit import RoutedViT
from .stock_attention import StockAttention


@MODELS.register_module()
class DynamicViTSAM(RoutedViT, ViTSAM):
    """SAM's image encoder with dynamic token routing: among selected tokens of a window, or of all in global blocks.

    Dense parameters keep the names of ``mmpretrain.ViTSAM``.

    Args:
        sparsity, with_cp: As for :class:`DynamicViT`.
        kwargs: Arguments of ``mmpretrain.ViTSAM``.
    """

    arch_keys = (*RoutedViT.arch_keys, "global_attn_indexes")
    num_extra_tokens = 0

    def check_arguments(self, arguments: dict[str, Any]) -> None:
        super().check_arguments(arguments)
        if not arguments.get("use_abs_pos", True):
            raise ValueError(
                "DynamicViTSAM: expected argument `use_abs_pos` to be True, because the stock class cannot be "
                "initialised without, but got False"
            )

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        x, grid = self.patch_embed(x)
        positions = self.pos_embed.flatten(1, 2)
        x = x + resize_pos_embed(positions, self.patch_resolution, grid, self.interpolate_mode, 0)
        return self.drop_after_pos(x), tuple(grid)

    def _output(self, tokens: Tensor, grid: Grid, last: bool) -> Tensor:
        x = tokens.unflatten(1, grid).permute(0, 3, 1, 2)
        return self._format_output(self.channel_reduction(x) if self.out_channels > 0 else x)

    def _attn(self, layer: nn.Module) -> StockAttention:
        return StockAttention(layer.attn)

    def _positions(self, layer: nn.Module) -> DecomposedBias | None:
        attn = layer.attn
        return DecomposedBias(attn.rel_pos_h, attn.rel_pos_w) if attn.use_rel_pos else None
