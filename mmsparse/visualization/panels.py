"""One picture through one model: what came in, where the model looked, what it found."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.visualization import Visualizer
from torch import nn

from mmsparse.apis import record_selections
from mmsparse.calls import predict, prepare_batch

from .keep_maps import draw_where, slow_share

NAMED = 11  # classes in a legend
SMALL = 480  # shorter pictures are enlarged, so that labels have room


def draw_predictions(
    model: nn.Module, visualizer: Visualizer, picture: dict[str, Any], path: str | Path, score_thr: float = 0.3
) -> None:
    """Write input, keep map and predictions of one sample of a test set.

    Args:
        model: A detector or segmenter in evaluation mode.
        visualizer: The library's own, with ``dataset_meta`` set.
        picture: What the test pipeline returned.
        path: The PNG to write.
        score_thr: Boxes below it are not drawn.
    """
    batch = prepare_batch(model, [picture])
    with torch.no_grad(), record_selections(model) as taken:
        (sample,) = predict(model, batch)
    image = picture["inputs"].permute(1, 2, 0).numpy()[..., ::-1].copy()  # the pipeline reads BGR
    share = slow_share(taken, tuple(batch["inputs"].shape[-2:]))[: image.shape[0], : image.shape[1]]
    sample, legend = sample.cpu().clone(), None
    if "pred_instances" in sample:
        scale = max(1, round(SMALL / min(image.shape[:2])))
        sample.pred_instances.bboxes = sample.pred_instances.bboxes * scale * _input_scale(sample)
        large = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
        options = dict(pred_score_thr=score_thr)
        found = f"detections, score > {score_thr:g}"
        if not (sample.pred_instances.scores > score_thr).any():
            found = f"no detection has a score > {score_thr:g}"
    else:
        height, width = sample.pred_sem_seg.data.shape[-2:]
        large = cv2.resize(image, (width, height))
        options, found = _without_names(visualizer), "segmentation"
        legend = legend_of(sample.pred_sem_seg.data.numpy(), visualizer.dataset_meta)
    visualizer.add_datasample("", large, sample, draw_gt=False, **options)
    captions = ("input", f"where it looked: {share.mean():.0%} of the decisions slow", found)
    draw_where(path, image, share, visualizer.get_image(), captions, legend)


def legend_of(label_map: np.ndarray, meta: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    """The colours of the classes of a label map, the largest first; many small ones are left out, and it says so."""
    labels, counts = np.unique(label_map[label_map < len(meta["classes"])], return_counts=True)
    labels = labels[np.argsort(-counts, kind="stable")]
    legend = {meta["classes"][label]: meta["palette"][label] for label in labels[:NAMED]}
    if len(labels) > NAMED:
        legend[f"and {len(labels) - NAMED} more"] = (255, 255, 255)
    return legend


def _without_names(visualizer: Visualizer) -> dict[str, bool]:
    """No class names across the label map; the stacks spell the argument differently."""
    known = inspect.signature(visualizer.add_datasample).parameters
    return {name: False for name in ("with_labels", "withLabels") if name in known}


def _input_scale(sample: Any) -> torch.Tensor:
    """Predictions come in pixels of the original picture; the panel shows the resized one."""
    return torch.tensor(sample.metainfo.get("scale_factor", (1.0, 1.0))).repeat(2)
