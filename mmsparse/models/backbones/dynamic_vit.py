"""Vision Transformer whose whole blocks are routed: attention and feed-forward network, among selected tokens."""

from collections.abc import Sequence
from typing import Any

from mmpretrain.models import VisionTransformer
from torch import Tensor

from mmsparse.registry import MODELS

from .positions import Grid
from .routed_vit import RoutedViT


@MODELS.register_module()
class DynamicViT(RoutedViT, VisionTransformer):
    """Vision Transformer with dynamic token routing.

    Dense parameters keep the names of ``mmpretrain.VisionTransformer``; everything new lives under ``router``.
    Checkpoints in the layout of mmseg's ``VisionTransformer`` load as well. An unselected token keeps its value (or
    takes the configured fast path), is nobody's key, and may be selected again, so the returned maps are whole.

    Args:
        sparsity: Arguments of :class:`BlockRouter`. An empty dict is the paper's setting at 0.7: three
            places at a quarter, a half and three quarters of the depth that keep r, r^2 and r^3; None is the dense
            network. Places are (0, block) pairs or block numbers. Two more are ``cumulative``: what a place drops
            stays dropped, as in the NeurIPS DynamicViT; and with it ``keys="entering"``: a token that a block drops
            is no query of it, but still a key, and gone for the blocks behind, as in Patch Slimming.
        window_size: Side of the attention's windows in tokens, as in ViTDet; 0: every block attends to all.
        global_attn_indexes: Blocks that attend to all in spite of ``window_size``.
        with_cp: Whether blocks save memory by computing their activations again in the backward pass.
        kwargs: Arguments of ``mmpretrain.VisionTransformer``.
    """

    def __init__(
        self,
        *args: Any,
        sparsity: dict[str, Any] | None = None,
        window_size: int = 0,
        global_attn_indexes: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, sparsity=sparsity, **kwargs)
        if window_size and self.num_extra_tokens:
            raise ValueError(
                "DynamicViT: expected argument `with_cls_token` to be False with `window_size`, because a class token "
                "belongs to no window, but got True"
            )
        fits = type(window_size) is int and window_size >= (1 if global_attn_indexes else 0)
        if not fits or not all(0 <= i < self.num_layers for i in global_attn_indexes):
            raise ValueError(
                "DynamicViT: expected `window_size` to be a whole number >= 0, and `global_attn_indexes` to hold "
                f"blocks in [0, {self.num_layers}) if there are windows, but got {window_size!r} and "
                f"{list(global_attn_indexes)}"
            )
        for i, layer in enumerate(self.layers):
            layer.window_size = 0 if i in global_attn_indexes else window_size
        self._check_windows()
        self._register_load_state_dict_pre_hook(_accept_mmseg_layout)

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        x, grid = super()._embed(x)
        return self.pre_norm(x), grid


def _accept_mmseg_layout(state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """mmseg's class wraps torch's attention layer, whose parameters have other names."""
    for key in [key for key in state if key.startswith(f"{prefix}layers.") and ".attn.attn." in key]:
        name = key.replace(".attn.attn.in_proj_", ".attn.qkv.").replace(".attn.attn.out_proj.", ".attn.proj.")
        state[name] = state.pop(key)
    for key in [key for key in state if key.startswith(f"{prefix}ln_pre.")]:
        state[key.replace("ln_pre.", "pre_norm.")] = state.pop(key)
