"""Suppression of boxes that overlap better ones."""

import torch
import torchvision
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes (N, 4) that stay, best first. With offset 1 the last pixel belongs to a box."""
    dtype = torch.promote_types(torch.float32, boxes.dtype)
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1).to(dtype)
    return torchvision.ops.nms(boxes, scores.to(dtype), _as_float32(iou_threshold))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Fills dets (N, 5), best first; returns the indices of what stays. Methods: 0 naive, 1 linear, 2 gaussian.

    The order among equal scores is the compiled one's: the best box trades places with the first one that is left, and
    a box that falls below ``min_score`` is replaced by the last one.
    """
    rows = torch.cat([boxes, scores[:, None]], 1)  # (N, 5), those before `i` are done
    index = torch.arange(len(rows))
    i = 0
    while i < len(rows):
        best = i + int(rows[i:, 4].argmax())
        if best != i:
            rows[[i, best]], index[[i, best]] = rows[[best, i]], index[[best, i]]
        rest = rows[i + 1 :]
        overlap = _overlap(rows[i], rest, offset)
        if method == 2:
            rest[:, 4] *= torch.exp(-(overlap**2) / sigma)
        else:
            rest[:, 4] *= torch.where(overlap >= iou_threshold, 1 - overlap if method else 0.0, 1.0)
        gone = rest[:, 4] < min_score
        i += 1
        if gone.any():
            stay = _close_gaps(~gone) + i
            rows, index = torch.cat([rows[:i], rows[stay]]), torch.cat([index[:i], index[stay]])
    dets[: len(rows)] = rows
    return index


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of boxes (N, 5): one that stays, and those that it suppresses, best first."""
    order = dets[:, 4].sort(descending=True, stable=True).indices
    groups = []
    while len(order):
        best, order = order[:1], order[1:]
        near = _overlap(dets[best[0]], dets[order], 0) >= iou_threshold
        groups.append(torch.cat([best, order[near]]).tolist())
        order = order[~near]
    return groups


def _as_float32(value: float) -> float:
    """Compiled operators compare with a threshold of single precision: 0.3 is a little more there."""
    return torch.tensor(value, dtype=torch.float32).item()


def _overlap(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """Intersection over union of a box (4 or more) with others (N, 4 or more)."""
    size = (torch.minimum(box[2:4], boxes[:, 2:4]) - torch.maximum(box[:2], boxes[:, :2]) + offset).clamp_min(0)
    inter = size[:, 0] * size[:, 1]
    area, areas = ((each[..., 2:4] - each[..., :2] + offset).prod(-1) for each in (box, boxes))
    return inter / (area + areas - inter)


def _close_gaps(keep: Tensor) -> Tensor:
    """Indices of what is kept, in an order that fills each gap from the end."""
    stay = keep.nonzero()[:, 0]
    count = len(stay)
    order = torch.arange(count)
    order[~keep[:count]] = stay[stay >= count].flip(0)
    return order
