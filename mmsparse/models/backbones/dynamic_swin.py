"""Swin Transformer whose channel mixing is routed; windows without a selected location may skip their attention."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from mmengine.logging import print_log
from mmengine.utils import to_2tuple
from torch import Tensor, nn

from mmsparse.checkpoints import COMPUTED, read_checkpoint
from mmsparse.env import has
from mmsparse.registry import MODELS
from mmsparse.sparsity import Path, Selection, new_prefixes, take_paths
from mmsparse.sparsity.decider import check_flags

from .arguments import bind
from .block_attention import BlockAttention
from .block_router import build_router
from .places import paper_places
from .routed_attention import Grid, Windows
from .swin_weights import fit_swin_weights

if has("mmseg"):
    from mmseg.models.backbones.swin import SwinTransformer
else:  # the same class and names, in an installation for detection only
    from mmdet.models.backbones.swin import SwinTransformer


@MODELS.register_module()
class DynamicSwin(SwinTransformer):
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

    def __init__(
        self,
        *args: Any,
        sparsity: dict[str, Any] | None = None,
        convert_weights: bool = False,
        shift_one_window: bool = True,
        **kwargs: Any,
    ) -> None:
        arguments = bind(self, SwinTransformer, args, kwargs)
        arguments.apply_defaults()
        super().__init__(*args, **kwargs)
        self.convert_weights = convert_weights
        self.shift_one_window = shift_one_window
        size = to_2tuple(arguments.arguments["pretrain_img_size"])
        self._pretrain_grid = tuple(length // self._patch_size for length in size)
        self.depths = [len(stage.blocks) for stage in self.stages]
        places = paper_places(self.depths, deep_step=2)
        self.router = build_router(sparsity, self.depths, self.num_features, places, own=("skip_windows",))
        self.skip_windows = (sparsity or {}).get("skip_windows", False)
        check_flags(skip_windows=self.skip_windows)
        self._freeze_stages()

    @property
    def out_channels(self) -> tuple[int, ...]:
        return tuple(self.num_features[i] for i in self.out_indices)

    @property
    def out_strides(self) -> tuple[int, ...]:
        stride, strides = self._patch_size, []
        for stage in self.stages:
            strides.append(stride)
            stride *= stage.downsample.sampler.stride[0] if stage.downsample else 1
        return tuple(strides[i] for i in self.out_indices)

    @property
    def _patch_size(self) -> int:
        return self.patch_embed.projection.stride[0]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if x.dim() != 4:
            raise ValueError(f"DynamicSwin: expected images of shape (B, C, H, W), but got {tuple(x.shape)}")
        outs = []
        x, grid = self.patch_embed(x)
        if self.use_abs_pos_embed:
            x = x + self._positions(grid)
        x = self.drop_after_pos(x)
        for i, stage in enumerate(self.stages):
            selection = None
            for j, block in enumerate(stage.blocks):
                windows = self._windows(block.attn, grid)
                if self.router is not None and (i, j) in self.router.places:
                    layer = block.attn.w_msa
                    attention = BlockAttention(x, block.norm1, layer.qkv, layer.num_heads, windows=windows)
                    selection = self.router.decide(i, j, x, grid, attention=attention)
                if selection is not None:
                    x = self._routed(block, self.router.fast_path(i, j), x, windows, selection)
                elif windows.shift == block.attn.shift_size:
                    x = block(x, grid)
                else:
                    x = self._unshifted(block, x, windows)
            if i in self.out_indices:
                rows = getattr(self, f"norm{i}")(x)
                outs.append(rows.unflatten(1, grid).permute(0, 3, 1, 2).contiguous())
            if stage.downsample:
                x, grid = stage.downsample(x, grid)
        return tuple(outs)

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates for one image at the present budget, in closed form (exact-count selectors)."""
        if self.skip_windows:
            raise ValueError("DynamicSwin: with `skip_windows` the arithmetic depends on the picture; count a real one")
        projection = self.patch_embed.projection
        height, width = -(-height // self._patch_size), -(-width // self._patch_size)
        total = height * width * projection.weight.numel()
        for i, stage in enumerate(self.stages):
            locations = height * width
            kept = {} if self.router is None else self.router.kept_of_stage(i, locations)
            for j, block in enumerate(stage.blocks):
                window, attention = block.attn.window_size, block.attn.w_msa
                padded = -(-height // window) * -(-width // window) * window**2
                mixing = attention.qkv.weight.numel() + attention.proj.weight.numel()
                total += padded * (mixing + 2 * window**2 * attention.embed_dims)
                ffn = sum(p.numel() for p in block.ffn.parameters() if p.dim() == 2)
                total += kept.get(j, locations) * ffn
            total += 0 if self.router is None else self.router.overhead_of_stage(i, locations, padded * window**2)
            if stage.downsample:
                stride = stage.downsample.sampler.stride[0]
                height, width = -(-height // stride), -(-width // stride)
                total += height * width * stage.downsample.reduction.weight.numel()
        return total

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Depth of a parameter for layer-wise learning rates, and the number of depths; new parts count as the head."""
        num_layers = sum(self.depths) + 2
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        if name.startswith(("patch_embed", "absolute_pos_embed")):
            return 0, num_layers
        if name.startswith("stages."):
            stage = int(name.split(".")[1])
            before = sum(self.depths[:stage])
            if ".blocks." in name:
                return before + int(name.split(".")[3]) + 1, num_layers
            return before + self.depths[stage], num_layers
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

    def train(self, mode: bool = True) -> "DynamicSwin":
        super().train(mode)  # the parent returns nothing
        return self

    def _positions(self, grid: Grid) -> Tensor:
        """The absolute position embedding, resized to the grid of these pictures."""
        if tuple(grid) == self._pretrain_grid:
            return self.absolute_pos_embed
        positions = self.absolute_pos_embed.unflatten(1, self._pretrain_grid).permute(0, 3, 1, 2)
        positions = F.interpolate(positions, size=grid, mode="bicubic", align_corners=False)
        return positions.flatten(2).transpose(1, 2)

    def _windows(self, attn: nn.Module, grid: Grid) -> "_ShiftedWindows":
        one = not self.shift_one_window and min(grid) <= attn.window_size
        return _ShiftedWindows(tuple(grid), attn.window_size, attn, 0 if one else attn.shift_size)

    def _routed(
        self, block: nn.Module, fast: Path, x: Tensor, windows: "_ShiftedWindows", selection: Selection
    ) -> Tensor:
        def run(x: Tensor) -> Tensor:
            x = x + windows.attend(block.norm1(x), selection if self.skip_windows else None)
            branch = take_paths(x.flatten(0, 1), selection, _slow_path(block), fast, self.router.explore)
            return x + block.ffn.dropout_layer(branch.view_as(x))

        return _run(run, block, x)

    def _unshifted(self, block: nn.Module, x: Tensor, windows: "_ShiftedWindows") -> Tensor:
        """The stock block with windows that are not its own."""

        def run(x: Tensor) -> Tensor:
            x = x + windows.attend(block.norm1(x))
            return block.ffn(block.norm2(x), identity=x)

        return _run(run, block, x)

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if self.router is not None:
            self.router.freeze_before((self.frozen_stages, 0))


def _run(run: Callable[[Tensor], Tensor], block: nn.Module, x: Tensor) -> Tensor:
    if block.with_cp and x.requires_grad:
        return cp.checkpoint(run, x, use_reentrant=False)
    return run(x)


def _slow_path(block: nn.Module) -> Path:
    """The dense block's feed-forward network on packed rows."""
    return lambda rows, _: block.ffn.gamma2(block.ffn.layers(block.norm2(rows)))


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
