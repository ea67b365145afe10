"""Where labels say that something is: what scores can be taught beside the task's own gradient."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def score_targets(samples: Sequence[Any], grid: tuple[int, int], size: Sequence[int], device: torch.device) -> Tensor:
    """1 for the cells of a grid that matter by the labels, else 0, (B, H * W).

    A cell matters if it touches an object's box; without boxes, if the label map has an edge in it.

    Args:
        samples: Data samples with ``gt_instances`` or ``gt_sem_seg``.
        grid: Height and width of the score map.
        size: Height and width of the pictures that the network sees.
        device: Where the scores are.
    """
    maps = []
    for sample in samples:
        if "gt_instances" in sample and "bboxes" in sample.gt_instances:
            boxes = sample.gt_instances.bboxes
            maps.append(_touched(getattr(boxes, "tensor", boxes).to(device), grid, size))
        elif "gt_sem_seg" in sample:
            maps.append(_edges(sample.gt_sem_seg.data.to(device), grid))
        else:
            raise ValueError(
                f"SparsityHook(score_weight=...) needs gt_instances with boxes or gt_sem_seg, but a "
                f"{type(sample).__name__} has {list(sample.keys())}. Set score_weight=0.0"
            )
    return torch.stack(maps).flatten(1)


def _touched(boxes: Tensor, grid: tuple[int, int], size: Sequence[int]) -> Tensor:
    ys = torch.arange(grid[0], device=boxes.device) * (size[0] / grid[0])
    xs = torch.arange(grid[1], device=boxes.device) * (size[1] / grid[1])
    x0, y0, x1, y1 = boxes.float().unbind(dim=1) if len(boxes) else boxes.new_zeros(4, 0)
    rows = (ys[None] < y1[:, None]) & (ys[None] + size[0] / grid[0] > y0[:, None])  # (objects, H)
    columns = (xs[None] < x1[:, None]) & (xs[None] + size[1] / grid[1] > x0[:, None])  # (objects, W)
    return (rows[:, :, None] & columns[:, None, :]).any(dim=0).float()


def _edges(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cells that hold more than one label; ``labels`` is (1, h, w)."""
    values = labels.float()[None]
    spread = F.adaptive_max_pool2d(values, grid) + F.adaptive_max_pool2d(-values, grid)
    return (spread > 0).float()[0, 0]
