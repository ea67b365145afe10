"""Vision Transformer whose whole blocks are routed: attention and feed-forward network, among selected tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn.bricks.drop import DropPath
from mmpretrain.models import VisionTransformer
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from mmsparse.registry import MODELS
from mmsparse.sparsity import Selection

from .block_attention import BlockAttention
from .block_router import ENTERING
from .packed_tokens import Packed, Tried
from .places import Place
from .routed import RoutedBackbone, Size, checkpointed
from .routed_attention import Grid, Keys, Pattern, Tokens, Windows, dense_attention, masked_attention


@MODELS.register_module()
class DynamicViT(RoutedBackbone, VisionTransformer):
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

    plain = True
    fast_path = "IdentityFastPath"

    def __init__(
        self,
        *args: Any,
        sparsity: dict[str, Any] | None = None,
        window_size: int = 0,
        global_attn_indexes: Sequence[int] = (),
        with_cp: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, sparsity=sparsity, **kwargs)
        for module in self.modules():
            if isinstance(module, DropPath):
                module.drop_prob = float(module.drop_prob)  # a number of numpy's is a tensor to compilers
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
        self.windows = [0 if i in global_attn_indexes else window_size for i in range(self.num_layers)]
        self.with_cp = with_cp
        masked = any(self.windows) or type(self)._pattern is not DynamicViT._pattern
        if self.router is not None and self.router.explore != 1.0 and (masked or self.router.keys == ENTERING):
            raise ValueError(
                f"Argument `sparsity`: with windows, patterns of keys or keys={ENTERING!r} a training has masks on all "
                f"tokens, so `explore` can only be 1.0, but got {self.router.explore}"
            )
        if self.router is not None and self.router.keys == ENTERING and any(self.windows):
            raise ValueError(
                f"Argument `sparsity`: keys={ENTERING!r} is for attention among all, but there are windows "
                f"(`window_size`={window_size}). Remove either"
            )
        self._register_load_state_dict_pre_hook(_accept_mmseg_layout)

    def check_arguments(self, arguments: dict[str, Any]) -> None:
        arch = arguments.get("arch", "base")
        if isinstance(arch, str) and arch.lower() not in VisionTransformer.arch_zoo:
            allowed = list(VisionTransformer.arch_zoo)
            raise ValueError(f"DynamicViT: expected argument `arch` to be one of {allowed} or a dict, but got {arch!r}")
        needed = {"embed_dims", "num_layers", "num_heads", "feedforward_channels"}
        if isinstance(arch, dict) and not needed <= arch.keys():
            raise ValueError(f"DynamicViT: a dict `arch` needs the keys {sorted(needed)}, but got {sorted(arch)}")

    def export_objection(self, padded: bool) -> str | None:
        if self.router is None:
            return None
        if any(self.windows):
            return (
                f"with window_size={self.windows[0] or max(self.windows)} how many selected tokens a window holds "
                "depends on the picture, and an exported network has fixed shapes. Export a network of attention "
                "among all (window_size=0), or evaluate it in PyTorch"
            )
        if self.router.cumulative and padded:
            return (
                "with cumulative=True a token of the padding that was dropped would have to return to fill its count. "
                "Export it for pictures without padding (--no-padding)"
            )
        return None

    def routed_stages(self) -> tuple[Sequence[int], Sequence[int]]:
        return [self.num_layers], [self.embed_dims]

    def default_places(self, depths: Sequence[int]) -> Sequence[Place]:
        """Before a quarter, a half and three quarters of the blocks: 3, 6, 9 of 12."""
        step = max(depths[0] // 4, 1)
        return [(0, i * step) for i in (1, 2, 3) if i * step < depths[0]]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.check_pictures(x)
        x, grid = self._embed(x)
        outs = []
        selection: Selection | None = None
        packed: Packed | Tried | None = None  # the tokens in work between two places, where not all are
        keys: Keys | None = None  # while training, their masks
        for i, layer in enumerate(self.layers):
            entering = keys
            if self.router is not None and (0, i) in self.router.places:
                x = x if packed is None else packed.whole()
                selection = self.select(0, i, layer, x, grid, selection)
                keys = None if selection is None or not self.training else self._keys(x, selection)
                packed = None if selection is None else self._pack(x, selection, packed, keys)
            if isinstance(packed, Packed):
                self._packed(i, packed)
            elif isinstance(packed, Tried):
                packed.tokens = self._masked(i, packed.tokens, grid, packed.keys, packed.keys)
                packed.leave(self.router.fast_paths[f"0_{i}"])
            elif selection is not None:
                x = self._masked(i, x, grid, keys, entering if self.router.keys == ENTERING else keys)
            else:
                x = self._dense(i, x, grid)
            last = i == self.num_layers - 1
            if i in self.out_indices or last:
                whole = x if packed is None else packed.whole()
                if last and self.final_norm:
                    whole = self.ln1(whole)
                if i in self.out_indices:
                    outs.append(self._format_output(whole, grid))
        return tuple(outs)

    def _pattern(self, i: int) -> Pattern | None:
        """Which keys the queries of a block see; None: all that are there. For subclasses; not for windows."""
        return None

    def train(self, mode: bool = True) -> "DynamicViT":
        super().train(mode)
        self._freeze_stages()
        return self

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        x, grid = self.patch_embed(x)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        extra, mode = self.num_extra_tokens, self.interpolate_mode
        x = x + resize_pos_embed(self.pos_embed, self.patch_resolution, grid, mode, extra)
        return self.pre_norm(self.drop_after_pos(x)), tuple(grid)

    def attention_of(self, block: nn.Module, x: Tensor, size: Size) -> BlockAttention:
        side = self.windows[list(self.layers).index(block)]
        windows = Windows(size, side) if side else None
        return BlockAttention(x, block.ln1, block.attn.qkv, block.attn.num_heads, self.num_extra_tokens, windows)

    def _dense(self, i: int, x: Tensor, grid: Grid) -> Tensor:
        layer, size, pattern = self.layers[i], self.windows[i], self._pattern(i)

        def run(x: Tensor) -> Tensor:
            if not size and pattern is None:
                return layer(x)
            if size:
                windows = Windows(grid, size)
                mixed = windows.join(dense_attention(layer.attn, windows.split(layer.ln1(x))))
            else:
                mixed = dense_attention(layer.attn, layer.ln1(x), pattern, Tokens(grid, self.num_extra_tokens))
            x = x + layer.attn.out_drop(mixed)
            return layer.ffn(layer.ln2(x), identity=x)

        return checkpointed(run, x, self.with_cp)

    def _packed(self, i: int, packed: Packed) -> None:
        """One block on the tokens in work, in evaluation."""
        packed.run(self.layers[i], self.router.fast_paths[f"0_{i}"], self.windows[i], self._pattern(i))

    def _pack(self, x: Tensor, selection: Selection, before: Any, keys: Keys | None) -> Packed | Tried | None:
        """The tokens that are in work from here; None: all of them, with masks."""
        if keys is not None:
            count = selection.common_count
            if self.router.explore == 1.0 or count is None:
                return None
            return Tried.of(x, keys, self.num_extra_tokens + count, self.router.explore)
        packed = Packed.of(x, selection, self.num_extra_tokens)
        if self.router.keys == ENTERING:
            packed.see(x, before)
        return packed

    def _masked(self, i: int, x: Tensor, grid: Grid, chosen: Keys, keys: Keys | None) -> Tensor:
        """One block with masks: those ``chosen`` go slow, only ``keys`` are seen (all, if None)."""
        layer, size, pattern = self.layers[i], self.windows[i], self._pattern(i)
        fast = self.router.fast_paths[f"0_{i}"]
        weight = chosen.gate.unsqueeze(-1)
        windows = Windows(grid, size) if size else None
        of_windows = keys.split(windows) if size else None

        def run(x: Tensor) -> Tensor:
            h = layer.ln1(x)
            if keys is None:
                mixed = dense_attention(layer.attn, h)
            elif size:
                mixed = windows.join(masked_attention(layer.attn, windows.split(h), of_windows))
            else:
                of = Tokens(grid, self.num_extra_tokens, there=keys.keep)
                mixed = masked_attention(layer.attn, h, keys, pattern, of)
            slow = x + layer.attn.out_drop(mixed)
            slow = layer.ffn(layer.ln2(slow), identity=slow)
            return (weight * slow + (1.0 - weight) * (x + fast(x))).to(slow.dtype)

        return checkpointed(run, x, self.with_cp)

    def _keys(self, x: Tensor, selection: Selection) -> Keys:
        """Of all tokens (B, extra + N)."""
        extended = selection.with_extra(self.num_extra_tokens)
        return Keys(extended.keep_mask, extended.keep_mask.to(x) if extended.gate is None else extended.gate)

    def _freeze_stages(self) -> None:
        if self.frozen_stages > 0:
            super()._freeze_stages()


def _accept_mmseg_layout(state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """mmseg's class wraps torch's attention layer, whose parameters have other names."""
    for key in [key for key in state if key.startswith(f"{prefix}layers.") and ".attn.attn." in key]:
        name = key.replace(".attn.attn.in_proj_", ".attn.qkv.").replace(".attn.attn.out_proj.", ".attn.proj.")
        state[name] = state.pop(key)
    for key in [key for key in state if key.startswith(f"{prefix}ln_pre.")]:
        state[key.replace("ln_pre.", "pre_norm.")] = state.pop(key)
