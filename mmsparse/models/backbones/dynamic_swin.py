"""Swin Transformer whose channel mixing is routed; windows without a selected location may skip their attention."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.utils import to_2tuple
from torch import Tensor, nn

from mmsparse.checkpoints import COMPUTED, read_checkpoint
from mmsparse.env import has
from mmsparse.ops import FeedForward, activation_name
from mmsparse.registry import MODELS
from mmsparse.sparsity import Path, Paths, Selection, new_prefixes
from mmsparse.sparsity.decider import check_flags

from .arguments import bind
from .block_attention import BlockAttention
from .places import Place, paper_places
from .routed import RoutedBackbone, Size, checkpointed
from .routed_attention import Grid, Windows
from .swin_weights import fit_swin_weights

if has("mmseg"):
    from mmseg.models.backbones.swin import SwinTransformer
else:  # the same class and names, in an installation for detection only
    from mmdet.models.backbones.swin import SwinTransformer


@MODELS.register_module()
class DynamicSwin(RoutedBackbone, SwinTransformer):
    """Swin Transformer with dynamic spatial sparsification.

    Dense parameters keep the names of mmdet's and mmseg's ``SwinTransformer``, which are the same; everything new lives
    under ``router``. The returned maps are whole, so any neck or head works on them unchanged.

    Args:
        sparsity: Arguments of :class:`BlockRouter`. An empty dict is the paper's setting at 0.7; None is
            the dense network. One more is ``skip_windows``: windows without a selected location skip their attention
            (beyond the paper, which keeps attention dense).
        convert_weights: As in mmdet: the initial weights are those of the original Swin release.
        shift_one_window: Whether a map of one window's height or width is shifted, as in mmdet and mmseg. False is the
            way of the original release and of mmpretrain; it matters for classifiers (the last stage at 224x224).
        kwargs: Arguments of the stock ``SwinTransformer``.
    """

    own_keys = ("skip_windows",)

    def __init__(
        self,
        *args: Any,
        sparsity: dict[str, Any] | None = None,
        convert_weights: bool = False,
        shift_one_window: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, sparsity=sparsity, **kwargs)
        arguments = bind(self, SwinTransformer, args, kwargs)
        arguments.apply_defaults()
        self._pretrain_size = to_2tuple(arguments.arguments["pretrain_img_size"])
        self.convert_weights = convert_weights
        self.shift_one_window = shift_one_window
        self.skip_windows = (sparsity or {}).get("skip_windows", False)
        check_flags(skip_windows=self.skip_windows)

    def export_objection(self, padded: bool) -> str | None:
        if not self.skip_windows:
            return None
        return (
            "with skip_windows=True how many windows are skipped depends on the picture, and an exported network has "
            "fixed shapes. Set skip_windows=False in `sparsity` (--cfg-options), which the same weights fit"
        )

    def routed_stages(self) -> tuple[Sequence[int], Sequence[int]]:
        return [len(stage.blocks) for stage in self.stages], self.num_features

    def default_places(self, depths: Sequence[int]) -> Sequence[Place]:
        return paper_places(depths, deep_step=2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.check_pictures(x)
        outs = []
        x, grid = self.patch_embed(x)
        if self.use_abs_pos_embed:
            x = x + self._positions(grid)
        x = self.drop_after_pos(x)
        for i, stage in enumerate(self.stages):
            x = self.run_stage(i, stage.blocks, x, grid)
            if i in self.out_indices:
                rows = getattr(self, f"norm{i}")(x)
                outs.append(rows.unflatten(1, grid).permute(0, 3, 1, 2).contiguous())
            if stage.downsample:
                x, grid = stage.downsample(x, grid)
        return tuple(outs)

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning rates, and the number of depths; new parts count as the head."""
        depths, _ = self.routed_stages()
        num_layers = sum(depths) + 2
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        if name.startswith(("patch_embed", "absolute_pos_embed")):
            return 0, num_layers
        if name.startswith("stages."):
            stage = int(name.split(".")[1])
            before = sum(depths[:stage])
            if ".blocks." in name:
                return before + int(name.split(".")[3]) + 1, num_layers
            return before + depths[stage], num_layers
        return num_layers - 1, num_layers

    def init_weights(self) -> None:
        pretrained = isinstance(self.init_cfg, dict) and self.init_cfg.get("checkpoint")
        if not pretrained:
            super().init_weights()  # redraws every linear layer of the tree, the router's too
        if self.router is not None:
            self.router.init_weights()
        if pretrained:
            content = read_checkpoint(pretrained, "init_cfg")
            state = fit_swin_weights(content, self, original=self.convert_weights)
            result = self.load_state_dict(state, strict=False)
            new = new_prefixes(self)
            missing = [key for key in result.missing_keys if not (key.startswith(new) or key.endswith(COMPUTED))]
            print_log(
                f"DynamicSwin: loaded {pretrained}; missing {missing}, unexpected {result.unexpected_keys}",
                logger="current",
            )

    def _positions(self, grid: Grid) -> Tensor:
        """The absolute position embedding, resized to the grid of these pictures."""
        trained = tuple(length // self.patch_embed.projection.stride[0] for length in self._pretrain_size)
        if tuple(grid) == trained:
            return self.absolute_pos_embed
        positions = self.absolute_pos_embed.unflatten(1, trained).permute(0, 3, 1, 2)
        positions = F.interpolate(positions, size=grid, mode="bicubic", align_corners=False)
        return positions.flatten(2).transpose(1, 2)

    def _windows(self, attn: nn.Module, grid: Grid) -> "_ShiftedWindows":
        one = not self.shift_one_window and min(grid) <= attn.window_size
        return _ShiftedWindows(tuple(grid), attn.window_size, attn, 0 if one else attn.shift_size)

    def attention_of(self, block: nn.Module, x: Tensor, size: Size) -> BlockAttention:
        layer = block.attn.w_msa
        return BlockAttention(x, block.norm1, layer.qkv, layer.num_heads, windows=self._windows(block.attn, size))

    def dense_block(self, block: nn.Module, x: Tensor, size: Size) -> Tensor:
        windows = self._windows(block.attn, size)
        if windows.shift == block.attn.shift_size:
            return block(x, size)

        def run(x: Tensor) -> Tensor:
            x = x + windows.attend(block.norm1(x))
            return block.ffn(block.norm2(x), identity=x)

        return checkpointed(run, x, block.with_cp)

    def routed_block(self, block: nn.Module, x: Tensor, size: Size, paths: Paths) -> Tensor:
        windows = self._windows(block.attn, size)

        def run(x: Tensor) -> Tensor:
            x = x + windows.attend(block.norm1(x), paths.selection if self.skip_windows else None)
            branch = paths.feed_forward(x.flatten(0, 1), _slow_path(block), _tensors(block))
            return x + block.ffn.dropout_layer(branch.view_as(x))

        return checkpointed(run, x, block.with_cp)


def _slow_path(block: nn.Module) -> Path:
    """The dense block's feed-forward network on packed rows."""
    return lambda rows, _: block.ffn.gamma2(block.ffn.layers(block.norm2(rows)))


def _tensors(block: nn.Module) -> FeedForward | None:
    """The feed-forward network of a stock block, if it is one of two layers whose activation is known."""
    layers, norm, scale = block.ffn.layers, block.norm2, block.ffn.gamma2
    activation = activation_name(layers[0][1]) if len(layers) == 3 else None
    if activation is None:
        return None
    (first, *_), second, _ = layers
    return FeedForward(
        norm=(norm.weight, norm.bias),
        eps=norm.eps,
        first=(first.weight, first.bias),
        second=(second.weight, second.bias),
        activation=activation,
        scale=getattr(scale, "weight", None),
    )


@dataclass(frozen=True)
class _ShiftedWindows(Windows):
    """The windows of a stock attention layer, shifted."""

    attn: nn.Module
    shift: int

    def split(self, tokens: Tensor, missing: float = 0.0) -> Tensor:
        padded = tuple(-(-side // self.size) * self.size for side in self.grid)
        cells = tokens.unflatten(1, self.grid)
        cells = F.pad(cells, (0, 0, 0, padded[1] - self.grid[1], 0, padded[0] - self.grid[0]), value=missing)
        if self.shift:
            cells = torch.roll(cells, (-self.shift, -self.shift), (1, 2))
        return Windows(padded, self.size).split(cells.flatten(1, 2))

    def join(self, windows: Tensor) -> Tensor:
        padded = tuple(-(-side // self.size) * self.size for side in self.grid)
        cells = Windows(padded, self.size).join(windows).unflatten(1, padded)
        if self.shift:
            cells = torch.roll(cells, (self.shift, self.shift), (1, 2))
        return cells[:, : self.grid[0], : self.grid[1]].flatten(1, 2)

    def mask(self, like: Tensor) -> Tensor | None:
        """What must not see each other after the roll: (windows, n, n) of 0 and -100, as in the stock class."""
        size, shift = self.size, self.shift
        if not shift:
            return None

        def regions(side: int) -> Tensor:
            length = -(-side // size) * size
            place = torch.arange(length, device=like.device)
            return (place >= length - size).long() + (place >= length - shift)

        down, right = (regions(side) for side in self.grid)
        number = down[:, None] * 3 + right[None, :]
        cells = Windows(tuple(number.shape), size).split(number.flatten()[None, :, None]).squeeze(-1)
        return (cells[:, None, :] != cells[:, :, None]).to(like.dtype) * -100.0

    def bias(self, like: Tensor) -> Tensor:
        layer = self.attn.w_msa
        table = layer.relative_position_bias_table[layer.relative_position_index.flatten()]
        bias = table.unflatten(0, (self.size**2, self.size**2)).permute(2, 0, 1)[None]
        mask = self.mask(like)
        return bias if mask is None else bias + mask.unsqueeze(1)

    def attend(self, x: Tensor, selection: Selection | None = None) -> Tensor:
        """Stock attention; with a selection, of the windows that hold a selected location: the others add nothing."""
        attn = self.attn
        if selection is None and self.shift == attn.shift_size:
            return attn(x, self.grid)
        windows, mask = self.split(x), self.mask(x)
        if selection is None:
            rows = attn.w_msa(windows, mask)
        else:
            selected = self.split(selection.keep_mask.unsqueeze(-1).to(x)).squeeze(-1) > 0.5
            active = selected.any(dim=1).nonzero().squeeze(1)
            rows = torch.zeros_like(windows)
            if not len(active):  # the stock attention cannot be asked for none
                if attn.training:  # it and the norm before it get gradients of zero, for which other processes wait
                    rows = 0.0 * (windows + sum(parameter.sum() for parameter in attn.w_msa.parameters()))
            else:
                attended = attn.w_msa(windows[active], None if mask is None else mask[active % len(mask)])
                rows = attended.new_zeros(windows.shape).index_copy(0, active, attended)
        return attn.drop(self.join(rows))
