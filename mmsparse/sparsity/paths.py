"""Rows of a map through the slow or the fast path, and back to a whole map."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsparse.ops import (
    FeedForward,
    as_map,
    from_tiles,
    slow_fast_ffn,
    slow_fast_rows,
    sparse_conv2d,
    tile_rows,
    to_tiles,
    whole_grid,
    window_of,
)

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
    ) -> Tensor:
        """A map (B, C, H, W) through a convolution that keeps its size, or the fast path at each location."""
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
            return self.fast(tiles.unflatten(1, (-1, x.shape[1]))).flatten(1)

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
        sample, scale = _tried(len(rest), explore, rows.device)
        tried_idx = selection.rest_idx[sample]
        gain_kept = slow_kept - fast(kept, selection.keep_idx)
        gain_rest = (slow(rest[sample], tried_idx) - fast_rest[sample]) * scale
        gain = torch.cat([gain_kept, gain_rest.to(gain_kept.dtype)])
        where = torch.cat([selection.keep_idx, tried_idx])
    return _GateGradient.apply(joined, selection.gate, gain, where, where)


def conv_paths(
    x: Tensor,
    slow: tuple[Tensor, Tensor | None],
    fast: tuple[Tensor, Tensor | None],
    selection: Selection,
    dilation: int = 1,
    means: Tensor | None = None,
    explore: float = 1.0,
) -> Tensor:
    """``take_paths`` of a map (B, C, H, W) through a convolution, or a 1x1 convolution, by one operator.

    Args:
        x: The map. It is all that is kept for the gradients, besides what informs the gates.
        slow: Weight and bias of a convolution that keeps the size of its map.
        fast: Weight (D, C) and bias of the other one.
        selection: Which tiles go slow.
        dilation: Of the convolution.
        means: Of all tiles (B * tiles, C), if the fast path sees these, each once for all locations of its tile.
        explore: As there.
    """
    rows, tile, size = selection.rows, selection.geometry.tile, selection.geometry.size
    if len(rows.rest) == 0:  # a training that starts dense
        reach = dilation * (slow[0].shape[-1] // 2)
        out = tile_rows(to_tiles(F.conv2d(x, *slow, padding=reach, dilation=dilation), tile), x.shape, tile)
        none = F.linear(x.new_zeros(0, x.shape[1]), *fast)  # so that these parameters have gradients, too
        out.index_copy_(0, rows.rest, none.to(out.dtype))
    else:
        of_rest = None if means is None else means.index_select(0, rows.rest)
        out = slow_fast_rows(x, slow, fast, rows, tile, dilation, of_rest)
    if selection.gate is not None and selection.gate.requires_grad:
        with torch.no_grad():
            sample, scale = _tried(len(rows.rest), explore, x.device)
            where = torch.cat([rows.keep, rows.rest[sample]])
            places = window_of(whole_grid(size, tile), where, tile, 0)[0]
            taken = out.index_select(0, places).view(len(where), tile**2, out.shape[1])
            kept, rest = taken.split([len(rows.keep), len(sample)])
            kept = kept - _fast_tiles(x, fast, rows.keep, tile, means)
            slow_rest = sparse_conv2d(x, *slow, rows.rest[sample], tile, dilation).view_as(rest)
            gain = torch.cat([kept, (slow_rest - rest) * scale])
        out = _GateGradient.apply(out, selection.gate, gain.flatten(0, 1), where, places)
    return as_map(out, x.shape, tile)


def _fast_tiles(x: Tensor, fast: tuple[Tensor, Tensor | None], idx: Tensor, tile: int, means: Tensor | None) -> Tensor:
    """What the fast path gives at tiles (R, tile * tile or 1, D)."""
    if means is not None:
        return F.linear(means.index_select(0, idx), *fast).unsqueeze(1)
    weight = fast[0][..., None, None]
    return sparse_conv2d(x, weight, fast[1], idx, tile).view(len(idx), tile**2, len(weight))


def _tried(count: int, explore: float, device: torch.device) -> tuple[Tensor, float]:
    """Which of so many are tried, and by how much each then counts."""
    if explore >= 1.0:
        return torch.arange(count, device=device), 1.0
    sample = torch.randperm(count, device=device)[: math.ceil(explore * count)]
    return sample, count / max(len(sample), 1)


class _GateGradient(torch.autograd.Function):
    """Identity on the joined rows; gives the gates the gradient <dL/dy, slow - fast>.

    ``gain`` has rows for the units ``where``, as many for each, whose own are ``places``.
    """

    @staticmethod
    def forward(ctx: Any, joined: Tensor, gate: Tensor, gain: Tensor, where: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(gain, where, places)
        ctx.gate_shape = gate.shape
        ctx.mark_dirty(joined)  # the very tensor, not a view, so that an activation behind may work in place
        return joined

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        gain, where, places = ctx.saved_tensors
        products = (
            (grad.index_select(0, places).float() * gain.float())
            .view(len(where), gain.numel() // max(len(where), 1))
            .sum(dim=1)
        )
        grad_gate = grad.new_zeros(ctx.gate_shape.numel(), dtype=torch.float32).index_copy_(0, where, products)
        return grad, grad_gate.view(ctx.gate_shape), None, None, None
