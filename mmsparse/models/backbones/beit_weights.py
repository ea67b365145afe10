"""BEiT's tables of relative positions for maps of another size."""

import math

import numpy as np
import torch
from torch import Tensor

from .positions import Grid

LEAST, MOST = 1.01, 1.5  # ratio of the steps between places


def resized_table(table: Tensor, size: Grid) -> Tensor:
    """A square map's table (T, heads) for a map of another size, as BEiT's recipe for fine-tuning has it.

    Near differences stay as they are trained, far ones are stretched: the trained values are put at distances that grow
    in a geometric sequence up to the new map's, and a cubic spline through them is read at whole distances. The class
    token's three values stay. (The stock classes ask for a function that SciPy has removed in its version 1.14.)
    """
    from scipy.interpolate import RectBivariateSpline

    side = math.isqrt(len(table) - 3)
    places = [_places(side, 2 * length - 1) for length in size]
    wanted = [np.arange(2 * length - 1) - (length - 1.0) for length in size]
    degree = min(3, side - 1)
    maps = table[:-3].detach().double().cpu().numpy().T.reshape(-1, side, side)
    heads = [RectBivariateSpline(*places, values, kx=degree, ky=degree, s=0)(*wanted) for values in maps]
    resized = torch.from_numpy(np.stack(heads)).flatten(1).t()
    return torch.cat([resized.to(table), table[-3:]])


def _places(trained: int, wanted: int) -> np.ndarray:
    """Where as many trained differences are to be for the outermost to be the outermost of those wanted."""
    count, last, low, high = trained // 2, wanted // 2, LEAST, MOST
    while high - low > 1e-6:
        ratio = (low + high) / 2
        low, high = (low, ratio) if (ratio**count - 1) / (ratio - 1) > last else (ratio, high)
    away = np.cumsum(low ** np.arange(count))
    return np.concatenate([-away[::-1], [0.0], away])
