"""Winograd's F(4x4, 3x3): a 3x3 convolution of a 4x4 tile with a quarter of the multiplications.

A tile with its halo, 6x6 values of each channel, becomes 36 numbers; channels are mixed by a matrix of their own at
each of the 36; what comes out becomes the 4x4 values. Half precision keeps to the direct sum.
"""

import threading
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import conv_cpu, sparse_conv
from .operator import OPERATORS
from .tiles import empty_rows, map_rows, once_for, size_of, whole_grid, window_of

TILE = 4
POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)  # let rounding errors grow 5-fold, the usual 0, 1, -1, 2, -2 11-fold


@cache
def transforms(points: tuple[float, ...] = POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of patches (36, 36), of kernels (36, 9) and of results (16, 36).

    A product of polynomials is known from its values at five points and infinity.
    """
    others = [np.delete(points, i) for i in range(5)]
    patch, kernel, result = np.zeros((6, 6)), np.zeros((6, 3)), np.zeros((4, 6))
    for i, point in enumerate(points):
        patch[i, :5] = np.poly(others[i])[::-1]
        kernel[i] = point ** np.arange(3) / np.prod(point - others[i])
        result[:, i] = point ** np.arange(4)
    patch[5], kernel[5, 2], result[3, 5] = np.poly(points)[::-1], 1, 1
    patch, kernel, result = (np.kron(m, m).astype(np.float32) for m in (patch, kernel, result))
    return patch, kernel, result


def transform_kernel(weight: Tensor) -> Tensor:
    """(D, C, 3, 3) to (36, C, D), a view of (36, D, C): so the weight is read as it lies."""
    width, channels = weight.shape[:2]
    mixing = torch.from_numpy(transforms()[1]) @ weight.reshape(width * channels, 9).t()
    return mixing.view(36, width, channels).transpose(1, 2)


def _transformed(weight: Tensor) -> Tensor:
    """The transformed kernel, made once for all levels of a pyramid; a large one not, which would stay until the part
    is done.
    """
    if 4 * weight.numel() > conv_cpu.LARGE:  # it becomes four times as large
        return transform_kernel(weight)
    return once_for(weight, (), lambda: transform_kernel(weight))


class _OfThread(threading.local):
    """Memory that a thread's calls use again."""

    def __init__(self) -> None:
        self._all = torch.empty(0, dtype=torch.float32, device="cpu")

    def take(self, sizes: Sequence[int]) -> Sequence[Tensor]:
        if self._all.numel() < sum(sizes):
            with torch.inference_mode(False):  # later calls may be outside
                self._all = torch.empty(sum(sizes), dtype=torch.float32, device="cpu")
        return self._all[: sum(sizes)].split(sizes)


_memory = _OfThread()


def conv_tiles(
    rows: Tensor, size: tuple[int, int], weight: Tensor, bias: Tensor | None, idx: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """The convolution at chosen 4x4 tiles, some of them at a time: which ones, and their results (16, R, D).

    All batches and calls of a thread use the same memory, because fresh pages cost as much as the arithmetic; take what
    is in it at once.

    Args:
        rows: (B * H * W, C) of maps of a size.
        size: Height and width of the maps.
        weight: (D, C, 3, 3).
        bias: (D,) or None.
        idx: Flat numbers of the chosen tiles.
    """
    patch, _, result = map(torch.from_numpy, transforms())
    kernel = _transformed(weight)
    points, channels, width = kernel.shape
    batch = max(1, min(len(idx), conv_cpu.LARGE // (points * (channels + width))))
    memory = _memory.take([batch * n for n in (points * channels, points * channels, points * width, 16 * width)])
    where, outside = (t.view(-1, points) for t in window_of(size, idx, TILE, 1))
    for start in range(0, len(idx), batch):
        part = slice(start, start + batch)
        count = len(where[part])
        patches, transformed, mixed, results = (m[: len(m) // batch * count] for m in memory)
        torch.index_select(rows, 0, where[part].flatten(), out=patches.view(-1, channels))
        patches.view(-1, channels).index_fill_(0, outside[part].flatten().nonzero().squeeze(1), 0)  # few: no mask
        torch.matmul(patch, patches.view(count, points, channels), out=transformed.view(count, points, channels))
        by_point = transformed.view(count, points, channels).transpose(0, 1)
        torch.bmm(by_point, kernel, out=mixed.view(points, count, width))
        torch.mm(result, mixed.view(points, -1), out=results.view(16, -1))
        values = results.view(16, count, width)
        yield part, values if bias is None else values.add_(bias)


def add_gradients(
    of_rows: Tensor | None,
    of_weight: Tensor | None,
    grad: Tensor,
    rows: Tensor,
    size: tuple[int, int],
    weight: Tensor,
    idx: Tensor,
) -> None:
    """The transforms backwards: a quarter of the multiplications here, too."""
    patch, kernel, result = map(torch.from_numpy, transforms())
    mixing = transform_kernel(weight)
    points, channels, width = mixing.shape
    where, outside = (t.view(-1, points) for t in window_of(size, idx, TILE, 1))
    of_mixing = mixing.new_zeros(points, width, channels)
    batch = max(1, conv_cpu.LARGE // (points * (channels + width)))
    for part in map(slice, range(0, len(idx), batch), range(batch, len(idx) + batch, batch)):
        seen, beyond = where[part].flatten(), outside[part].flatten().nonzero().squeeze(1)
        of_mixed = torch.matmul(result.t(), grad[part]).transpose(0, 1)  # (36, R, D)
        if of_weight is not None:
            patches = rows.index_select(0, seen).index_fill_(0, beyond, 0).view(-1, points, channels)
            of_mixing.baddbmm_(of_mixed.transpose(1, 2), torch.matmul(patch, patches).transpose(0, 1))
        if of_rows is not None:
            of_transformed = torch.bmm(of_mixed, mixing.transpose(1, 2)).transpose(0, 1)
            of_patches = torch.matmul(patch.t(), of_transformed).view(-1, channels)
            of_rows.index_add_(0, seen, of_patches.index_fill_(0, beyond, 0))
    if of_weight is not None:
        of_weight += (kernel.t() @ of_mixing.flatten(1)).t().view(weight.shape)


def suits(weight: Tensor, tile: int, dilation: int, groups: int = 1, **_: Any) -> bool:
    """Whether it can be done this way."""
    return weight.dtype == torch.float32 and weight.shape[-1] == 3 and tile == TILE and dilation == groups == 1


sparse_conv.GRADIENTS.append((lambda device, **how: device == "cpu" and suits(**how), add_gradients))


@OPERATORS["slow_fast_conv2d"].kernel("cpu", suits=suits, name="winograd")
def _slow_fast_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    fast_weight: Tensor,
    fast_bias: Tensor | None,
    means: Tensor | None,
    keep: Tensor,
    rest: Tensor,
    inverse: Tensor,
    tile: int,
    dilation: int,
) -> Tensor:
    rows, size, out = map_rows(x), size_of(x), empty_rows(x, tile, len(weight))
    where = window_of(whole_grid(size, tile), keep, tile, 0)[0].view(-1, tile**2).t()
    for part, kept in conv_tiles(rows, size, weight, bias, keep):
        out.index_copy_(0, where[:, part].reshape(-1), kept.view(-1, len(weight)))
    conv_cpu.fast_into(out, rows, size, fast_weight, fast_bias, means, rest, tile)
    return out


def _pays(weight: Tensor, idx: Tensor, **how: Any) -> bool:
    """Where nothing else shares the transformed kernel: to make it takes as long as to transform many tiles."""
    return suits(weight, **how) and weight.shape[0] * weight.shape[1] <= 1024 * len(idx)


@OPERATORS["sparse_conv2d"].kernel("cpu", suits=_pays, name="winograd")
def _sparse_conv2d(
    rows: Tensor,
    height: int,
    width: int,
    weight: Tensor,
    bias: Tensor | None,
    idx: Tensor,
    tile: int,
    dilation: int,
    groups: int,
) -> Tensor:
    out = rows.new_empty(len(idx), tile**2, len(weight))
    for part, values in conv_tiles(rows, (height, width), weight, bias, idx):
        out[part] = values.transpose(0, 1)
    return out.flatten(1)
