"""Winograd's F(4x4, 3x3): a 3x3 convolution of a 4x4 tile with a quarter of the multiplications.

A tile with its halo, 6x6 values of each channel, becomes 36 numbers; channels are mixed by a matrix of their own at
each of the 36; what comes out becomes the 4x4 values. In single precision the error is a few times that of the
direct sum (1e-5 of the values), so half precision keeps to the direct one.
"""

from functools import cache

import torch
from torch import Tensor

SIDE, TILE = 6, 4  # with and without its halo


@cache
def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """Of patches (36, 36), of kernels (36, 9) and of results (16, 36), for the points 0, 1, -1, 2, -2 and infinity."""
    patch = torch.tensor(
        [
            [4.0, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
    )
    kernel = torch.tensor([[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
    result = torch.tensor([[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
    return torch.kron(patch, patch), torch.kron(kernel, kernel), torch.kron(result, result)


def transform_kernel(weight: Tensor) -> Tensor:
    """(D, C, 3, 3) to (36, C, D)."""
    _, kernel, _ = _transforms()
    return (kernel @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(SIDE * SIDE, weight.shape[1], weight.shape[0])


class Workspace:
    """Memory that batches of up to so many tiles use in turn: fresh pages cost as much as the arithmetic."""

    def __init__(self, tiles: int, kernel: Tensor) -> None:
        points, channels, width = kernel.shape
        self.kernel = kernel
        self.patches = kernel.new_empty(tiles * points, channels)
        self.transformed = kernel.new_empty(tiles, points, channels)
        self.mixed = kernel.new_empty(points * tiles * width)
        self.results = kernel.new_empty(TILE * TILE * tiles * width)

    def conv(self, rows: Tensor, where: Tensor, outside: Tensor) -> Tensor:
        """The results (16, R, D) of the tiles whose patches are the rows ``where``, zero where they lie ``outside``."""
        points, _, width = self.kernel.shape
        count = len(where) // points
        patch, _, result = _transforms()
        patches = torch.index_select(rows, 0, where, out=self.patches[: len(where)])
        patches.index_fill_(0, outside.nonzero().squeeze(1), 0)  # few, unlike in a mask
        transformed = torch.matmul(patch, patches.view(count, points, -1), out=self.transformed[:count])
        mixed = self.mixed[: points * count * width].view(points, count, width)
        torch.bmm(transformed.transpose(0, 1), self.kernel, out=mixed)
        results = self.results[: TILE * TILE * count * width].view(TILE * TILE, -1)
        return torch.mm(result, mixed.view(points, -1), out=results).view(TILE * TILE, count, width)
