"""Suppression of boxes that overlap better ones."""

import numpy as np
import torch
import torchvision
from torch import Tensor


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes (N, 4) that stay, best first, of equal ones the first. Offset 1: the last pixel counts."""
    dtype = torch.promote_types(boxes.dtype, torch.float32)
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], 1).to(dtype)
    threshold = float(np.float32(iou_threshold))  # as the compiled one compares: 0.3 is a little more there
    return torchvision.ops.nms(boxes, scores.to(dtype), threshold)


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
    a box that falls below ``min_score`` is replaced by the last one. On a CPU, where mmcv brings the boxes.
    """
    rows = torch.cat([boxes, scores[:, None]], 1).float().numpy()  # (N, 5), those before `i` are done
    index = np.arange(len(rows))
    i = 0
    while i < len(rows):
        best = i + rows[i:, 4].argmax()
        rows[[i, best]], index[[i, best]] = rows[[best, i]], index[[best, i]]
        rest = rows[i + 1 :]
        overlap = _overlap(rows[i], rest, offset)
        if method == 2:
            rest[:, 4] *= np.exp(-(overlap**2) / np.float32(sigma))
        else:
            near = overlap >= np.float32(iou_threshold)
            rest[near, 4] *= 1 - overlap[near] if method else 0
        i += 1
        stay = ~(rest[:, 4] < np.float32(min_score))
        if not stay.all():
            order = np.concatenate([np.arange(i), i + _close_gaps(stay)])
            rows, index = rows[order], index[order]
    dets[: len(rows)] = torch.from_numpy(rows)
    return torch.from_numpy(index)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of boxes (N, 5): one that stays, and those that it suppresses, best first."""
    rows = dets.float().numpy()
    order = np.argsort(-rows[:, 4], kind="stable")
    groups = []
    while len(order):
        best, rest = order[0], order[1:]
        near = _overlap(rows[best], rows[rest], 0) >= np.float32(iou_threshold)
        groups.append([int(best), *rest[near].tolist()])
        order = rest[~near]
    return groups


def _overlap(box: np.ndarray, boxes: np.ndarray, offset: int) -> np.ndarray:
    """Intersection over union of a box (4 or more numbers) with others (N, 4 or more)."""
    size = np.maximum(np.minimum(box[2:4], boxes[:, 2:4]) - np.maximum(box[:2], boxes[:, :2]) + offset, 0)
    inter = size[:, 0] * size[:, 1]
    area, areas = (
        (each[..., 2] - each[..., 0] + offset) * (each[..., 3] - each[..., 1] + offset) for each in (box, boxes)
    )
    with np.errstate(invalid="ignore"):  # boxes without a size: not a number, which is above no threshold
        return inter / (area + areas - inter)


def _close_gaps(stay: np.ndarray) -> np.ndarray:
    """Indices of what stays, in an order that fills each gap from the end."""
    kept = stay.nonzero()[0]
    order = np.arange(len(kept))
    order[~stay[: len(kept)]] = kept[kept >= len(kept)][::-1]
    return order
