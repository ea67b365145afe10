"""ConvNeXt v1 and v2 whose channel mixing is routed; the depthwise convolution stays dense and shared."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models import ConvNeXt
from torch import Tensor, nn

from mmsparse.ops import FeedForward, activation_name, exporting
from mmsparse.registry import MODELS
from mmsparse.sparsity import Paths, Selection

from .places import Place, paper_places
from .routed import RoutedBackbone, Size, checkpointed


@MODELS.register_module()
class DynamicConvNeXt(RoutedBackbone, ConvNeXt):
    """ConvNeXt with dynamic spatial sparsification.

    Args:
        sparsity: Arguments of :class:`BlockRouter`: ``keep_ratio``, ``places``, ``scorer``, ``selector``,
            ``fast_path``, ``explore``, ``detach``. An empty dict is the paper's setting at 0.7; None is the dense
            network.
        kwargs: Arguments of ``mmpretrain.ConvNeXt``.
    """

    def check_arguments(self, arguments: dict[str, Any]) -> None:
        arch = arguments.get("arch", "tiny")
        if isinstance(arch, str) and arch not in ConvNeXt.arch_settings:
            allowed = list(ConvNeXt.arch_settings)
            raise ValueError(
                f"DynamicConvNeXt: expected argument `arch` to be one of {allowed} or a dict, but got {arch!r}"
            )
        if isinstance(arch, dict) and not {"depths", "channels"} <= arch.keys():
            raise ValueError(
                f"DynamicConvNeXt: a dict `arch` needs the keys depths and channels, but got {sorted(arch)}"
            )
        stages = len((ConvNeXt.arch_settings[arch] if isinstance(arch, str) else arch)["depths"])
        outs = arguments.get("out_indices", -1)
        if not all(-stages <= out < stages for out in ([outs] if isinstance(outs, int) else outs)):
            raise ValueError(f"DynamicConvNeXt: `out_indices` must name stages < {stages}, but got {outs}")
        norm = arguments.get("norm_cfg", dict(type="LN2d"))["type"]
        if norm != "LN2d":
            raise ValueError(f"DynamicConvNeXt: expected argument `norm_cfg` to have the type 'LN2d', but got {norm!r}")

    def routed_stages(self) -> tuple[Sequence[int], Sequence[int]]:
        return self.depths, self.channels

    def default_places(self, depths: Sequence[int]) -> Sequence[Place]:
        return paper_places(depths, deep_step=3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.check_pictures(x, self.downsample_layers[0][0].stride[0] * 2 ** (self.num_stages - 1))
        outs = []
        x = x.contiguous(memory_format=torch.channels_last)  # a map's tokens are then a view of it
        for i, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            for layer in downsample:
                x = layer(x) if isinstance(layer, nn.Conv2d) else _layer_norm(x, layer)
            size = x.shape[-2], x.shape[-1]
            x = _as_map(self.run_stage(i, stage, _as_tokens(x), size), size)
            if i in self.out_indices:
                outs.append(self._out(x, getattr(self, f"norm{i}")))
        return tuple(outs)

    def _out(self, x: Tensor, norm: nn.Module) -> Tensor:
        if self.gap_before_final_norm:
            return norm(x.mean([-2, -1], keepdim=True)).flatten(1)
        # the stock norm leaves maps in plain memory: mmcv's operators read them as they lie
        return _layer_norm(x, norm) if exporting() else norm(x)

    def dense_block(self, block: nn.Module, x: Tensor, size: Size) -> Tensor:
        """The stock block. Exporters see it on tokens, which the convolution reads as they lie."""
        if not exporting():
            return _as_tokens(block(_as_map(x, size)))
        hidden = _first_half(block, _as_tokens(block.depthwise_conv(_as_map(x, size))))
        if block.grn is not None:
            hidden = block.grn(hidden.unflatten(1, size), data_format="channel_last").flatten(1, 2)
        return x + _second_half(block, hidden)

    def routed_block(self, block: nn.Module, x: Tensor, size: Size, paths: Paths) -> Tensor:
        def run(x: Tensor) -> Tensor:
            rows = _as_tokens(block.depthwise_conv(_as_map(x, size))).flatten(0, 1)
            branch = paths.feed_forward(rows, _SlowPath(block, paths.selection), _tensors(block))
            return x + block.drop_path(branch.view_as(x))

        return checkpointed(run, x, block.with_cp)


def _as_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H * W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _as_map(tokens: Tensor, size: Size) -> Tensor:
    """The inverse."""
    return tokens.unflatten(1, size).permute(0, 3, 1, 2)


def _tensors(block: nn.Module) -> FeedForward | None:
    """The channel mixing of a stock block, if its activation is known."""
    activation, norm, grn = activation_name(block.act), block.norm, block.grn
    if activation is None:
        return None
    return FeedForward(
        norm=(norm.weight, norm.bias),
        eps=norm.eps,
        first=(block.pointwise_conv1.weight.flatten(1), block.pointwise_conv1.bias),
        second=(block.pointwise_conv2.weight.flatten(1), block.pointwise_conv2.bias),
        activation=activation,
        scale=block.gamma,
        grn=None if grn is None else (grn.gamma, grn.beta),
        grn_eps=1e-6 if grn is None else grn.eps,
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
        rows = _first_half(self.block, rows)
        return _second_half(self.block, rows if self.block.grn is None else self._grn(rows, idx))

    def _grn(self, rows: Tensor, idx: Tensor) -> Tensor:
        grn = self.block.grn
        if self.statistics is None:  # the first call brings the kept rows of all images, in order
            norms = torch.stack([image.norm(dim=0) for image in rows.split(self.selection.num_keep)])
            self.statistics = norms / (norms.mean(dim=-1, keepdim=True) + grn.eps)
        image_of_row = idx // self.selection.geometry.units
        return grn.gamma * (rows * self.statistics[image_of_row]) + grn.beta + rows


def _first_half(block: nn.Module, rows: Tensor) -> Tensor:
    """The channel mixing of a block, up to its activation."""
    norm = block.norm
    rows = F.layer_norm(rows, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return block.act(_pointwise(rows, block.pointwise_conv1))


def _second_half(block: nn.Module, rows: Tensor) -> Tensor:
    rows = _pointwise(rows, block.pointwise_conv2)
    return rows if block.gamma is None else rows * block.gamma


def _pointwise(rows: Tensor, layer: nn.Module) -> Tensor:
    """A linear layer or a 1x1 convolution, on rows."""
    return F.linear(rows, layer.weight.flatten(1), layer.bias)


def _layer_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """The norm of mmpretrain over the channels of a map, without leaving channels-last memory."""
    rows = F.layer_norm(_as_tokens(x), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return _as_map(rows, x.shape[-2:])
