"""A stock convolution that is dense at the tiles that matter, and 1x1 everywhere else."""

from typing import Protocol

import torch
from mmcv.cnn import ConvWS2d
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmsparse.ops import exporting, opaque, slow_fast_conv2d, static, tile_means
from mmsparse.sparsity import Selection, conv_paths, valid_units


class Chooses(Protocol):
    """What a convolution asks, by its name."""

    explore: float
    shared: bool  # the convolutions behind it are of the same decision
    coarse: bool  # the fast path sees a tile as one

    def selection_for(self, name: str, x: Tensor) -> Selection | None:
        """Where it is evaluated densely; None means everywhere."""

    def fast_path(self, name: str) -> "ConvFastPath":
        """What it gives elsewhere."""


class RoutedConv2d(nn.Conv2d):
    """A convolution evaluated where its router says; it takes over the parameters of a stock one.

    Norm and activation behind it see the whole map, so batch and group statistics stay what they were.
    """

    def __init__(self, conv: nn.Conv2d, name: str, router: Chooses) -> None:
        shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        super().__init__(*shape, bias=conv.bias is not None, device="meta")
        self.weight, self.bias = conv.weight, conv.bias
        self.standardized = conv.eps if isinstance(conv, ConvWS2d) else None
        self.name = name
        self._router = (router,)  # no child: what is new lives under the module's `router` alone

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Notice a kernel that takes another's place, such as mmcv's ``fuse_conv_bn`` brings: the norm goes into it."""
        before = self._parameters.get(name)
        super().register_parameter(name, param)
        fusing = name == "weight" and "_router" in self.__dict__ and before is not None and param is not None
        if fusing and self.standardized is None:
            self._router[0].fast_path(self.name).follow(before, param)

    def forward(self, x: Tensor) -> Tensor:
        router = self._router[0]
        selection, kernel = router.selection_for(self.name, x), self.kernel()
        if selection is None:
            return self._conv_forward(x, kernel, self.bias)
        fast = router.fast_path(self.name).effective(kernel, self.bias)
        if selection.gate is not None:
            means = _means(x, selection) if router.coarse else None
            slow = kernel, self.bias
            return conv_paths(x, slow, fast, selection, self.dilation[0], means, router.explore)
        means = _means_of_rest(x, selection) if router.coarse else None
        dense, how = (kernel, self.bias), (selection.geometry.tile, self.dilation[0], means)
        if router.shared and exporting():
            return static.slow_fast(x, dense, fast, selection.rows, *how)
        return slow_fast_conv2d(x, dense, fast, selection.rows, *how)

    def kernel(self) -> Tensor:
        """Its weight; that of a ConvWS2d with mean 0 and deviation 1 in each output channel."""
        if self.standardized is None:
            return self.weight
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return (self.weight - mean) / (deviation + self.standardized)


def _means(x: Tensor, selection: Selection) -> Tensor:
    """Of all tiles, without padding."""
    valid = valid_units(selection.geometry.locations, x)
    real = None if valid is None else valid.mask.view(len(x), 1, *selection.geometry.size)
    return tile_means(x, selection.geometry.tile, real)


def _means_of_rest(x: Tensor | static.TileMap, selection: Selection) -> Tensor:
    """Of those that were not chosen; behind another convolution of the decision each is one row already."""
    if isinstance(x, static.TileMap) and x.tiles is selection.rows:
        return x.parts[1]
    return _means(x, selection).index_select(0, selection.rows.rest)


@opaque(lambda kernel, bias, own, own_bias: (own.new_empty(own.shape), own.new_empty(own_bias.shape)))
def one_by_one(kernel: Tensor, bias: Tensor | None, own: Tensor, own_bias: Tensor) -> tuple[Tensor, Tensor]:
    return kernel.sum(dim=(2, 3)) + own, own_bias.clone() if bias is None else bias + own_bias


class ConvFastPath(BaseModule):
    """A 1x1 convolution. It starts as what the dense kernel does to a locally constant map, and learns the rest.

    The kernel's sum is taken anew in each forward, so a dense checkpoint brings its own fast paths.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def effective(self, kernel: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weight (D, C) and bias, given those of the dense convolution."""
        return one_by_one(kernel, bias, self.weight, self.bias)

    @torch.no_grad()
    def follow(self, before: Tensor, after: Tensor) -> None:
        """Scale the output channels by as much as those of the kernel were, if that is what was done to it.

        A kernel that is no multiple of the one before is another network's: it brings its own fast path.
        """
        if before.shape != after.shape or before.is_meta or after.is_meta:
            return
        old, new = before.flatten(1).double(), after.flatten(1).double()
        size = old.square().sum(dim=1)
        factor = torch.where(size > 0, (old * new).sum(dim=1) / size, 1.0)
        precision = torch.finfo(after.dtype)
        if not torch.allclose(factor[:, None] * old, new, rtol=4 * precision.eps, atol=precision.tiny):
            return
        unknown = (size == 0) & (self.weight.ne(0).any(dim=1) | self.bias.ne(0))
        if (factor != 1).any() and unknown.any():
            raise RuntimeError(
                f"A norm cannot be fused into a routed convolution whose kernel is zero in the output channels "
                f"{unknown.nonzero().flatten().tolist()}: by how much to scale their fast paths is not known. Leave "
                "the norms of this network as they are"
            )
        self.weight.mul_(factor[:, None])
        self.bias.mul_(factor)
