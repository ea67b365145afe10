"""Does the slow path go where the objects are?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from mmsparse.apis import record_selections
from mmsparse.calls import predict, prepare_batch
from mmsparse.sparsity import Selection


def object_focus(model: nn.Module, pictures: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share of locations on the slow path, for locations whose centre lies in an object's box and for the others.

    Args:
        model: A detector in evaluation mode.
        pictures: Samples whose ``data_samples`` hold ``gt_instances`` with boxes in input pixels.

    Returns:
        ``inside`` and ``outside``, averaged over places and pictures; equal for a selection that knows nothing. Padding
        is neither.
    """
    shares: dict[str, list[float]] = {"inside": [], "outside": []}
    for picture in pictures:
        batch = prepare_batch(model, [picture])
        with torch.no_grad(), record_selections(model) as taken:
            predict(model, batch)
        boxes = torch.as_tensor(_boxes(picture), dtype=torch.float32)
        size, (high, wide) = batch["inputs"].shape[-2:], picture["inputs"].shape[-2:]
        for _, selection in taken:
            if selection.geometry.of_regions:
                continue
            keep = selection.keep_mask[0].cpu().view(selection.grid)
            covered = _covered(boxes, selection, size)
            real = _covered(torch.tensor([[0, 0, wide, high]]), selection, size)
            for name, region in (("inside", covered), ("outside", real & ~covered)):
                if region.any():
                    shares[name].append(keep[region].float().mean().item())
    return {name: float(np.mean(values)) if values else float("nan") for name, values in shares.items()}


def _boxes(picture: dict[str, Any]) -> Any:
    boxes = picture["data_samples"].gt_instances.bboxes
    return getattr(boxes, "tensor", boxes)


def _covered(boxes: torch.Tensor, selection: Selection, size: Sequence[int]) -> torch.Tensor:
    """Which cells of a decision have their centre in a box, (H, W) bool."""
    ys, xs = ((edges[:-1] + edges[1:]).cpu() / 2 for edges in selection.edges(size))
    covered = torch.zeros(selection.grid, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes.tolist():
        covered |= ((ys >= y0) & (ys <= y1))[:, None] & ((xs >= x0) & (xs <= x1))[None, :]
    return covered
