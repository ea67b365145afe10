"""What the labels of a picture want on the slow path: objects, by the level that a head's own assigner gives them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmsparse.calls import predict


@dataclass(frozen=True)
class Objects:
    """The objects of a picture, and where its detector is trained to find them.

    Args:
        boxes: (n, 4) x0, y0, x1, y1 in pixels of the network's input.
        levels: (n,) the level with most of an object's positive anchors or points, -1 where it has none.
        positives: Of each level, a boolean map of the locations with a positive.
    """

    boxes: Tensor
    levels: Tensor
    positives: Sequence[Tensor]


def dense_head(model: nn.Module) -> nn.Module | None:
    """The head whose assigner knows levels: a detector's own, or that of its proposals."""
    for name in ("bbox_head", "rpn_head"):
        head = getattr(model, name, None)
        if hasattr(head, "loss_by_feat") and hasattr(head, "get_targets"):
            return head
    return None


@torch.no_grad()
def objects_of(model: nn.Module, batch: dict[str, Any]) -> Objects:
    """Those of a batch of one picture, whose sample has boxes in input pixels. The model predicts on the way.

    Each object is given to the assigner alone, too: that tells its level.
    """
    head, outputs = dense_head(model), []
    handle = head.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        predict(model, batch)
    finally:
        handle.remove()
    (sample,) = batch["data_samples"]
    objects = sample.gt_instances
    levels = torch.full((len(objects),), -1)
    for i in range(len(objects)):
        counts = torch.stack([level.sum() for level in positives(head, outputs[0], objects[[i]], sample)])
        if counts.any():
            levels[i] = counts.argmax()
    return Objects(objects.bboxes.cpu(), levels, positives(head, outputs[0], objects, sample))


def positives(head: nn.Module, outputs: Any, objects: InstanceData, sample: Any) -> list[Tensor]:
    """Of each level, the locations (H, W) that the head's own assigner gives to some of these objects."""
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    with _watched(head) as seen:
        head.loss_by_feat(*outputs, [_of_head(head, objects)], [sample.metainfo])
    sizes = [level.shape[-2:] for level in outputs[0]]
    labels = next(part for part in seen[0] if _is_labels(part, len(sizes)))
    return [
        ((found >= 0) & (found < head.num_classes)).reshape(*size, -1).any(dim=-1).cpu()
        for found, size in zip(labels, sizes, strict=True)
    ]


def _of_head(head: nn.Module, objects: InstanceData) -> InstanceData:
    """Proposals know one class."""
    kept = InstanceData(bboxes=objects.bboxes, labels=objects.labels)
    if head.num_classes == 1:
        kept.labels = torch.zeros_like(kept.labels)
    return kept


def _is_labels(part: Any, levels: int) -> bool:
    """Whether part of a head's targets is its labels: whole numbers for each level."""
    return (
        isinstance(part, list | tuple)
        and len(part) == levels
        and all(isinstance(level, Tensor) and not level.is_floating_point() for level in part)
    )


@contextmanager
def _watched(head: nn.Module) -> Iterator[list[Any]]:
    """Collect what ``get_targets`` of a head gives inside a with-block."""
    seen, stock = [], head.get_targets

    def get_targets(*args: Any, **kwargs: Any) -> Any:
        seen.append(stock(*args, **kwargs))
        return seen[-1]

    head.get_targets = get_targets
    try:
        yield seen
    finally:
        del head.get_targets
