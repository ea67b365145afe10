"""Rows of a map through the slow or the fast path, and back to a whole map."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsparse.ops import FeedForward, from_tiles, slow_fast_ffn, sparse_conv2d, to_tiles

from .fast_paths import FastPath, IdentityFastPath, LinearFastPath
from .selection import Selection

Path = Callable[[Tensor, Tensor], Tensor]  # (packed rows (R, C), their flat row numbers (R,)) -> (R, C)


@dataclass(frozen=True, eq=False)
class Paths:
    """The fast path of a layer, and which units take the slow one instead.

    Args:
        selection: Which units do.
        fast: From rows (R, C) to (R, D).
        explore: Fraction of the other units whose slow value informs the scorer in training.
    """

    selection: Selection
    fast: Callable[[Tensor], Tensor]
    explore: float = 1.0

    def take(self, rows: Tensor, slow: Path) -> Tensor:
        """Rows (B * N, C) through a slow path on rows, or the fast one."""
        if len(rows) != self.selection.keep_mask.numel():
            raise ValueError(
                f"Expected argument `rows` to have a row for each of the {self.selection.keep_mask.numel()} units of "
                f"{self.selection.geometry}, but got {len(rows)}. Rows of locations are for tile = 1; tiles are cut by "
                "`to_tiles`"
            )
        return take_paths(rows, self.selection, slow, lambda rest, _: self.fast(rest), self.explore)

    def feed_forward(self, rows: Tensor, slow: Path, tensors: FeedForward | None) -> Tensor:
        """The same of a block's feed-forward network, in evaluation by one operator.

        Args:
            rows: (B * N, C).
            slow: The network.
            tensors: What it computes without dropout; None if no ``FeedForward`` says it.
        """
        kind = type(self.fast)
        if self.selection.gate is not None or tensors is None or kind not in (LinearFastPath, IdentityFastPath):
            return self.take(rows, slow)
        fast = self.fast.tensors() if kind is LinearFastPath else None
        counts = () if tensors.grn is None else self.selection.common_count
        counts = self.selection.num_keep if counts is None else counts
        return slow_fast_ffn(rows, self.selection.rows, tensors, fast, counts)

    def conv(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        dilation: int = 1,
        means: Tensor | None = None,
    ) -> Tensor:
        """A map (B, C, H, W) through a convolution that keeps its size, or the fast path at each location.

        If there are ``means`` of all tiles (B * tiles, C), at these, each once for all locations of its tile.
        """
        tile, everything = self.selection.geometry.tile, self.selection.keep_mask.numel()
        widths = (x.shape[1], weight.shape[0])
        if isinstance(self.fast, FastPath) and widths != (self.fast.channels,) * 2:
            raise ValueError(
                f"Expected argument `weight` to lead from {self.fast.channels} channels to as many, as the fast path "
                f"does, but it leads from {widths[0]} to {widths[1]}. Send the whole branch through `take`"
            )

        def slow(_: Tensor, idx: Tensor) -> Tensor:
            if len(idx) == everything:  # a training that starts dense
                reach = dilation * (weight.shape[-1] // 2)
                return to_tiles(F.conv2d(x, weight, bias, padding=reach, dilation=dilation), tile)
            return sparse_conv2d(x, weight, bias, idx, tile, dilation)

        def fast(tiles: Tensor, idx: Tensor) -> Tensor:
            if means is None:
                return self.fast(tiles.unflatten(1, (-1, x.shape[1]))).flatten(1)
            return self.fast(means.index_select(0, idx)).repeat(1, tile**2)

        return from_tiles(take_paths(to_tiles(x, tile), self.selection, slow, fast, self.explore), x.shape, tile)


def take_paths(rows: Tensor, selection: Selection, slow: Path, fast: Path, explore: float = 1.0) -> Tensor:
    """Send every row through the path its location was given: y = gate * slow(h) + (1 - gate) * fast(h).

    The gate is hard, so only the active path is evaluated with gradients; training computes the very function that
    evaluation does. What a gate's gradient needs besides, <dL/dy, slow - fast>, is the value of the path not taken.
    It is computed without a graph, and for the expensive slow path on a random fraction of the rest if asked.

    Args:
        rows: (B * H * W, C).
        selection: Which rows go slow.
        slow: The expressive path.
        fast: The light path.
        explore: Fraction of the unselected rows whose slow value is computed for the gate's gradient (training
            only). Their gradients are scaled by its inverse, so the expectation stays.
    """
    kept, rest = selection.split(rows)
    slow_kept, fast_rest = slow(kept, selection.keep_idx), fast(rest, selection.rest_idx)
    joined = selection.join(slow_kept, fast_rest)
    if selection.gate is None or not selection.gate.requires_grad:
        return joined
    with torch.no_grad():
        sample = torch.arange(len(rest), device=rows.device)
        if explore < 1.0:
            sample = torch.randperm(len(rest), device=rows.device)[: math.ceil(explore * len(rest))]
        tried_idx = selection.rest_idx[sample]
        gain_kept = slow_kept - fast(kept, selection.keep_idx)
        gain_rest = (slow(rest[sample], tried_idx) - fast_rest[sample]) * (len(rest) / max(len(sample), 1))
        gain = torch.cat([gain_kept, gain_rest.to(gain_kept.dtype)])
        where = torch.cat([selection.keep_idx, tried_idx])
    return _GateGradient.apply(joined, selection.gate, gain, where)


class _GateGradient(torch.autograd.Function):
    """Identity on the joined rows; gives the gates the gradient <dL/dy, slow - fast>."""

    @staticmethod
    def forward(ctx: Any, joined: Tensor, gate: Tensor, gain: Tensor, where: Tensor) -> Tensor:
        ctx.save_for_backward(gain, where)
        ctx.gate_shape = gate.shape
        ctx.mark_dirty(joined)  # the very tensor, not a view, so that an activation behind may work in place
        return joined

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        gain, where = ctx.saved_tensors
        grad_gate = grad.new_zeros(grad.shape[0], dtype=torch.float32)
        grad_gate[where] = (grad[where].float() * gain.float()).sum(dim=1)
        return grad, grad_gate.view(ctx.gate_shape), None, None
