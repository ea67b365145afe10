"""Where labels say that something is: what scores can be taught beside the task's own gradient."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmsparse.sparsity import Selection

IGNORED = 255  # what a label map says where nothing is known, unless its head says otherwise


def ignored_label(model: nn.Module) -> int:
    """The label that a segmenter's losses ignore."""
    head = getattr(model, "decode_head", None)
    head = head[-1] if isinstance(head, nn.ModuleList) else head  # of a cascade
    return getattr(head, "ignore_index", IGNORED)


def score_targets(samples: Sequence[Any], selection: Selection, size: Sequence[int], ignored: int = IGNORED) -> Tensor:
    """1 for the cells of a decision that matter by the labels, else 0, (B, N).

    A cell matters if it touches an object's box; without boxes, if the label map has an edge in it.

    Args:
        samples: Data samples with ``gt_instances`` or ``gt_sem_seg``.
        selection: The decision; it knows where its cells are.
        size: Height and width of the pictures that the network sees.
        ignored: A label that has no edges.
    """
    device, maps = selection.keep_mask.device, []
    for sample in samples:
        if "gt_instances" in sample and "bboxes" in sample.gt_instances:
            boxes = sample.gt_instances.bboxes
            maps.append(_touched(getattr(boxes, "tensor", boxes).to(device), *selection.edges(size)))
        elif "gt_sem_seg" in sample:
            labels = sample.gt_sem_seg.data.to(device)
            maps.append(_several(labels, ignored, *selection.edges(labels.shape[-2:])))
        else:
            raise ValueError(
                f"SparsityHook(score_weight=...) needs gt_instances with boxes or gt_sem_seg, but a "
                f"{type(sample).__name__} has {list(sample.keys())}. Set score_weight=0.0"
            )
    return torch.stack(maps).flatten(1)


def _touched(boxes: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    x0, y0, x1, y1 = boxes.float().unbind(dim=1) if len(boxes) else boxes.new_zeros(4, 0)
    rows = (ys[None, :-1] < y1[:, None]) & (ys[None, 1:] > y0[:, None])  # (objects, H)
    columns = (xs[None, :-1] < x1[:, None]) & (xs[None, 1:] > x0[:, None])  # (objects, W)
    return (rows[:, :, None] & columns[:, None, :]).any(dim=0).float()


def _several(labels: Tensor, ignored: int, ys: Tensor, xs: Tensor) -> Tensor:
    """Cells that hold more than one label besides the ignored one; ``labels`` is (1, h, w)."""
    values, unknown = labels[0].float(), labels[0] == ignored

    def largest(values: Tensor) -> Tensor:
        return _largest(_largest(values.masked_fill(unknown, -torch.inf), ys).T, xs).T

    return (largest(values) + largest(-values) > 0).float()


def _largest(values: Tensor, edges: Tensor) -> Tensor:
    """The largest of the rows (h, w) that each cell of an axis touches."""
    first, behind = edges[:-1].floor().long(), edges[1:].ceil().long()
    rows = first[:, None] + torch.arange(int((behind - first).max()), device=edges.device)
    return values[rows.minimum(behind[:, None] - 1)].amax(dim=1)
