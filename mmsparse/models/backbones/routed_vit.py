"""What the routed plain transformers have in common: whole blocks are routed, among selected tokens."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmcv.cnn.bricks.drop import DropPath
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from mmsparse.sparsity import Selection

from .block_attention import BlockAttention
from .block_router import ENTERING
from .packed_tokens import Packed, PlainBlock, Tried
from .places import Place
from .positions import Grid, Positions, Tokens
from .routed import RoutedBackbone, Size, checkpointed
from .routed_attention import Keys, Pattern, Windows, dense_attention, masked_attention


class RoutedViT(RoutedBackbone):
    """Mixin in front of a stock plain transformer, whose whole blocks are routed.

    An unselected token keeps its value (or takes the configured fast path), is nobody's key, and may be selected again,
    so the returned maps are whole. A family says what its blocks are where they are not those of
    ``mmpretrain.VisionTransformer``: ``_attn``, ``_feed``, ``_positions``; and if need be how pictures become tokens
    (``_embed``), and what is returned of them (``_output``).

    Args:
        sparsity: Arguments of :class:`BlockRouter`, see :class:`DynamicViT`.
        with_cp: Whether blocks save memory by computing their activations again in the backward pass.
        args, kwargs: Arguments of the stock class.
    """

    plain = True
    fast_path = "IdentityFastPath"
    arch_keys: Sequence[str] = ("embed_dims", "num_layers", "num_heads", "feedforward_channels")

    def __init__(
        self, *args: Any, sparsity: dict[str, Any] | None = None, with_cp: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, sparsity=sparsity, **kwargs)
        for module in self.modules():
            if isinstance(module, DropPath):
                module.drop_prob = float(module.drop_prob)  # a number of numpy's is a tensor to compilers
        self.with_cp = with_cp
        self._check_windows()

    @property
    def windows(self) -> list[int]:
        """Sides of the blocks' windows; 0 where all attend to all."""
        return [_window(layer) for layer in self.layers]

    def check_arguments(self, arguments: dict[str, Any]) -> None:
        name, arch, known = type(self).__name__, arguments.get("arch"), self.stock().arch_zoo
        if isinstance(arch, str) and arch.lower() not in known:
            raise ValueError(f"{name}: expected argument `arch` to be one of {list(known)} or a dict, but got {arch!r}")
        if isinstance(arch, dict) and not set(self.arch_keys) <= arch.keys():
            raise ValueError(f"{name}: a dict `arch` needs the keys {sorted(self.arch_keys)}, but got {sorted(arch)}")

    def export_objection(self, padded: bool) -> str | None:
        if self.router is None:
            return None
        if any(self.windows):
            return (
                f"with window_size={max(self.windows)} how many selected tokens a window holds "
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
                out = self._output(whole, grid, last)
                if i in self.out_indices:
                    outs.append(out)
        return tuple(outs)

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Pictures to tokens (B, extra + N, C), and the size of their maps."""
        x, grid = self.patch_embed(x)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        if self.pos_embed is not None:
            extra = int(self.cls_token is not None)
            x = x + resize_pos_embed(self.pos_embed, self.patch_resolution, grid, self.interpolate_mode, extra)
        return self.drop_after_pos(x), tuple(grid)

    def _output(self, tokens: Tensor, grid: Grid, last: bool) -> Tensor:
        """What is returned of the tokens behind a block."""
        if last and self.final_norm:
            tokens = self.ln1(tokens)
        return self._format_output(tokens, grid)

    def _attn(self, layer: nn.Module) -> Any:
        """A block's attention, under the names of mmpretrain's ``MultiheadAttention``."""
        return layer.attn

    def _feed(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Tokens with what a block's feed-forward network adds."""
        return layer.ffn(layer.norm2(x), identity=x)

    def _positions(self, layer: nn.Module) -> Positions | None:
        """What places do to a block's attention."""
        return None

    def _pattern(self, i: int) -> Pattern | None:
        """Which keys the queries of a block see; None: all that are there. For subclasses; not for windows."""
        return None

    def _block(self, i: int) -> PlainBlock:
        layer = self.layers[i]
        feed, positions = partial(self._feed, layer), self._positions(layer)
        return PlainBlock(layer.norm1, self._attn(layer), feed, _window(layer), self._pattern(i), positions)

    def attention_of(self, block: nn.Module, x: Tensor, size: Size) -> BlockAttention:
        attn, side, positions = self._attn(block), _window(block), self._positions(block)
        windows = Windows(size, side) if side else None
        return BlockAttention(
            x, block.norm1, attn.qkv, attn.num_heads, self.num_extra_tokens, windows, positions=positions, grid=size
        )

    def _dense(self, i: int, x: Tensor, grid: Grid) -> Tensor:
        layer, block = self.layers[i], self._block(i)
        stock = block.attn is layer.attn and not block.window and block.pattern is None and block.positions is None

        def run(x: Tensor) -> Tensor:
            if stock:
                return layer(x)
            h = block.norm(x)
            if block.window:
                windows, of = Windows(grid, block.window), Tokens((block.window, block.window), 0)
                mixed = dense_attention(block.attn, windows.split(h), of=of, positions=block.positions)
                mixed = windows.join(mixed)
            else:
                of = Tokens(grid, self.num_extra_tokens)
                mixed = dense_attention(block.attn, h, block.pattern, of, block.positions)
            return block.feed(x + block.attn.out_drop(mixed))

        return checkpointed(run, x, self.with_cp)

    def _packed(self, i: int, packed: Packed) -> None:
        """One block on the tokens in work, in evaluation."""
        packed.run(self._block(i), self.router.fast_paths[f"0_{i}"])

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
        block = self._block(i)
        fast = self.router.fast_paths[f"0_{i}"]
        weight = chosen.gate.unsqueeze(-1)
        windows = Windows(grid, block.window) if block.window else None
        of_windows = keys.split(windows) if block.window else None

        def run(x: Tensor) -> Tensor:
            h = block.norm(x)
            if keys is None:
                of = Tokens(grid, self.num_extra_tokens)
                mixed = dense_attention(block.attn, h, of=of, positions=block.positions)
            elif block.window:
                of = Tokens((block.window, block.window), 0)
                mixed = masked_attention(block.attn, windows.split(h), of_windows, of=of, positions=block.positions)
                mixed = windows.join(mixed)
            else:
                of = Tokens(grid, self.num_extra_tokens, keys.numbers, there=keys.keep)
                mixed = masked_attention(block.attn, h, keys, block.pattern, of, block.positions)
            slow = block.feed(x + block.attn.out_drop(mixed))
            return (weight * slow + (1.0 - weight) * (x + fast(x))).to(slow.dtype)

        return checkpointed(run, x, self.with_cp)

    def _keys(self, x: Tensor, selection: Selection) -> Keys:
        """Of all tokens (B, extra + N)."""
        extended = selection.with_extra(self.num_extra_tokens)
        return Keys(extended.keep_mask, extended.keep_mask.to(x) if extended.gate is None else extended.gate)

    def _check_windows(self) -> None:
        router = self.router
        masked = any(self.windows) or type(self)._pattern is not RoutedViT._pattern
        if router is not None and router.explore != 1.0 and (masked or router.keys == ENTERING):
            raise ValueError(
                f"Argument `sparsity`: with windows, patterns of keys or keys={ENTERING!r} a training has masks on all "
                f"tokens, so `explore` can only be 1.0, but got {router.explore}"
            )
        if router is not None and router.keys == ENTERING and any(self.windows):
            raise ValueError(
                f"Argument `sparsity`: keys={ENTERING!r} is for attention among all, but there are windows "
                f"(`window_size`={max(self.windows)}). Remove either"
            )

    def train(self, mode: bool = True) -> "RoutedViT":
        super().train(mode)
        self._freeze_stages()
        return self

    def _freeze_stages(self) -> None:
        if self.frozen_stages > 0:
            super()._freeze_stages()


def _window(layer: nn.Module) -> int:
    return getattr(layer, "window_size", 0)
