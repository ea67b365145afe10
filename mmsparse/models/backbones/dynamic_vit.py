"""Vision Transformer whose whole blocks are routed: attention and feed-forward network, among selected tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.models import VisionTransformer
from torch import Tensor, nn

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
        num_registers: Tokens without a position behind the class token, always selected like it, as in DINOv2 with
            registers; their values are ``register_tokens`` (1, registers, C).
        kwargs: Arguments of ``mmpretrain.VisionTransformer``.
    """

    def __init__(
        self,
        *args: Any,
        sparsity: dict[str, Any] | None = None,
        window_size: int = 0,
        global_attn_indexes: Sequence[int] = (),
        num_registers: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, sparsity=sparsity, **kwargs)
        if type(num_registers) is not int or num_registers < 0:
            raise ValueError(
                f"DynamicViT: expected argument `num_registers` to be a whole number >= 0, but got {num_registers!r}"
            )
        self.num_registers = num_registers
        self.num_extra_tokens += num_registers
        if num_registers:
            self.register_tokens = nn.Parameter(torch.empty(1, num_registers, self.embed_dims))
            nn.init.trunc_normal_(self.register_tokens, std=0.02)  # equal ones would stay equal
            self._freeze_stages()
        if window_size and self.num_extra_tokens:
            name, fit, given = "with_cls_token", "False", "True"
            if num_registers:
                name, fit, given = "num_registers", "0", num_registers
            raise ValueError(
                f"DynamicViT: expected argument `{name}` to be {fit} with `window_size`, because a class token "
                f"or register belongs to no window, but got {given}"
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
        if self.num_registers:
            first, registers = self.num_extra_tokens - self.num_registers, self.register_tokens.expand(len(x), -1, -1)
            x = torch.cat([x[:, :first], registers, x[:, first:]], dim=1)
        return self.pre_norm(x), grid

    def _prepare_pos_embed(self, state: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Registers, which are extra tokens, have no positions to resize."""
        self.num_extra_tokens -= self.num_registers
        try:
            super()._prepare_pos_embed(state, prefix, *args, **kwargs)
        finally:
            self.num_extra_tokens += self.num_registers

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        depth, count = super().get_layer_depth(param_name, prefix)
        return (0 if param_name == f"{prefix}register_tokens" else depth), count

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if self.frozen_stages > 0 and getattr(self, "num_registers", 0):
            self.register_tokens.requires_grad = False


def _accept_mmseg_layout(state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """mmseg's class wraps torch's attention layer, whose parameters have other names."""
    for key in [key for key in state if key.startswith(f"{prefix}layers.") and ".attn.attn." in key]:
        name = key.replace(".attn.attn.in_proj_", ".attn.qkv.").replace(".attn.attn.out_proj.", ".attn.proj.")
        state[name] = state.pop(key)
    for key in [key for key in state if key.startswith(f"{prefix}ln_pre.")]:
        state[key.replace("ln_pre.", "pre_norm.")] = state.pop(key)
