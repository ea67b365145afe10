"""ConvNeXt v1 and v2 whose channel mixing is routed; the depthwise convolution stays dense and shared."""

from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from mmpretrain.models import ConvNeXt
from torch import Tensor, nn

from mmsparse.registry import MODELS
from mmsparse.sparsity import Path, Selection, take_paths

from .arguments import bind
from .block_router import build_router
from .places import paper_places


@MODELS.register_module()
class DynamicConvNeXt(ConvNeXt):
    """ConvNeXt with dynamic spatial sparsification.

    Dense parameters keep the names of ``mmpretrain.ConvNeXt``; everything new lives under ``router``. The returned
    maps are whole, so any neck or head works on them unchanged.

    Args:
        sparsity: Arguments of :class:`BlockRouter`: ``keep_ratio``, ``places``, ``scorer``,
            ``selector``, ``fast_path``, ``explore``, ``detach``. An empty dict is the paper's setting at 0.7; None
            is the dense network.
        kwargs: Arguments of ``mmpretrain.ConvNeXt``.
    """

    def __init__(self, *args: Any, sparsity: dict[str, Any] | None = None, **kwargs: Any) -> None:
        arguments = bind(self, ConvNeXt, args, kwargs).arguments
        _check_arguments(arguments)
        if "out_indices" in arguments and not isinstance(arguments["out_indices"], int):
            arguments["out_indices"] = list(arguments["out_indices"])  # the parent resolves negative ones in place
        arguments.pop("self")
        super().__init__(**arguments)
        self.stem_patch_size = arguments.get("stem_patch_size", 4)
        self.router = build_router(
            sparsity, self.depths, self.channels, paper_places(self.depths, deep_step=3), attends=False
        )
        self._freeze_stages()

    @property
    def out_channels(self) -> tuple[int, ...]:
        return tuple(self.channels[i] for i in self.out_indices)

    @property
    def out_strides(self) -> tuple[int, ...]:
        return tuple(self.stem_patch_size * 2**i for i in self.out_indices)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self._check_input(x)
        outs = []
        x = x.contiguous(memory_format=torch.channels_last)  # a map's rows are then a view of it
        for i, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            for layer in downsample:
                x = layer(x) if isinstance(layer, nn.Conv2d) else _layer_norm(x, layer)
            selection = None
            for j, block in enumerate(stage):
                if self.router is not None and (i, j) in self.router.places:
                    tokens, grid = x.permute(0, 2, 3, 1).flatten(1, 2), tuple(x.shape[-2:])
                    selection = self.router.decide(i, j, tokens, grid)
                if selection is None:
                    x = block(x)
                else:
                    x = self._routed(block, self.router.fast_path(i, j), x, selection)
            if i in self.out_indices:
                norm = getattr(self, f"norm{i}")
                # the stock norm leaves maps in plain memory: mmcv's operators read them as they lie
                outs.append(norm(x.mean([-2, -1], keepdim=True)).flatten(1) if self.gap_before_final_norm else norm(x))
        return tuple(outs)

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates for one image at the present budget, in closed form (exact-count selectors)."""
        total, stride, before = 0, self.stem_patch_size, self.downsample_layers[0][0].in_channels
        for i, c in enumerate(self.channels):
            height, width = height // stride, width // stride
            locations = height * width
            total += locations * c * before * stride**2
            routed = {} if self.router is None else self.router.kept_of_stage(i, locations)
            for j, block in enumerate(self.stages[i]):
                kernel, mixing = block.depthwise_conv.weight[0].numel(), 2 * block.pointwise_conv1.weight.numel()
                kept = routed.get(j, locations)
                total += locations * c * kernel + kept * mixing
            total += 0 if self.router is None else self.router.overhead_of_stage(i, locations)
            before, stride = c, 2
        return total

    def train(self, mode: bool = True) -> "DynamicConvNeXt":
        super().train(mode)  # the parent returns nothing
        return self

    def _routed(self, block: nn.Module, fast: Path, x: Tensor, selection: Selection) -> Tensor:
        def run(x: Tensor) -> Tensor:
            h = block.depthwise_conv(x).permute(0, 2, 3, 1)  # (B, H, W, C)
            branch = take_paths(h.flatten(0, 2), selection, _SlowPath(block, selection), fast, self.router.explore)
            return x + block.drop_path(branch.view(h.shape).permute(0, 3, 1, 2))

        if block.with_cp and x.requires_grad:
            return cp.checkpoint(run, x, use_reentrant=False)
        return run(x)

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if getattr(self, "router", None) is not None:  # the parent calls this before there is one
            self.router.freeze_before((self.frozen_stages, 0))

    def _check_input(self, x: Tensor) -> None:
        if x.dim() != 4:
            raise ValueError(f"DynamicConvNeXt: expected images of shape (B, C, H, W), but got {tuple(x.shape)}")
        stride = self.stem_patch_size * 2 ** (self.num_stages - 1)
        if min(x.shape[-2:]) < stride:
            raise ValueError(
                f"DynamicConvNeXt: expected images of at least {stride}x{stride} pixels (its stride), "
                f"but got {x.shape[-2]}x{x.shape[-1]}. Enlarge the pictures or pad them"
            )


class _SlowPath:
    """The dense block's channel mixing on packed rows.

    Global response normalisation (v2) takes its per-image statistics over the rows that go slow; rows tried besides
    for the gate's gradient see the same statistics.
    """

    def __init__(self, block: nn.Module, selection: Selection) -> None:
        self.block = block
        self.selection = selection
        self.statistics: Tensor | None = None  # (B, hidden)

    def __call__(self, rows: Tensor, idx: Tensor) -> Tensor:
        block = self.block
        norm = block.norm
        rows = F.layer_norm(rows, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        rows = block.act(_pointwise(rows, block.pointwise_conv1))
        if block.grn is not None:
            rows = self._grn(rows, idx)
        rows = _pointwise(rows, block.pointwise_conv2)
        return rows if block.gamma is None else rows * block.gamma

    def _grn(self, rows: Tensor, idx: Tensor) -> Tensor:
        grn = self.block.grn
        if self.statistics is None:  # the first call brings the kept rows of all images, in order
            norms = torch.stack([image.norm(dim=0) for image in rows.split(self.selection.num_keep)])
            self.statistics = norms / (norms.mean(dim=-1, keepdim=True) + grn.eps)
        image_of_row = idx // (self.selection.grid[0] * self.selection.grid[1])
        return grn.gamma * (rows * self.statistics[image_of_row]) + grn.beta + rows


def _pointwise(rows: Tensor, layer: nn.Module) -> Tensor:
    """A linear layer or a 1x1 convolution, on rows."""
    return F.linear(rows, layer.weight.flatten(1), layer.bias)


def _layer_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """The norm of mmpretrain over the channels of a map, without leaving channels-last memory."""
    rows = F.layer_norm(x.permute(0, 2, 3, 1), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return rows.permute(0, 3, 1, 2)


def _check_arguments(arguments: dict[str, Any]) -> None:
    arch = arguments.get("arch", "tiny")
    if isinstance(arch, str) and arch not in ConvNeXt.arch_settings:
        allowed = list(ConvNeXt.arch_settings)
        raise ValueError(
            f"DynamicConvNeXt: expected argument `arch` to be one of {allowed} or a dict, but got {arch!r}"
        )
    if isinstance(arch, dict) and not {"depths", "channels"} <= arch.keys():
        raise ValueError(f"DynamicConvNeXt: a dict `arch` needs the keys depths and channels, but got {sorted(arch)}")
    norm = arguments.get("norm_cfg", dict(type="LN2d"))["type"]
    if norm != "LN2d":
        raise ValueError(f"DynamicConvNeXt: expected argument `norm_cfg` to have the type 'LN2d', but got {norm!r}")
