"""One picture through one model: what came in, where the model looked, what it found."""

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.visualization import Visualizer
from torch import nn

from mmsparse.apis import record_selections
from mmsparse.calls import predict, prepare_batch

from .keep_maps import draw_where, slow_share

NAMED = 11  # classes in a legend
BEST = 3  # classes of a picture
SMALL = 480  # shorter pictures are enlarged, so that labels have room


class Found(NamedTuple):
    """What a network says of a picture."""

    drawn: np.ndarray  # (H, W, 3) RGB, the picture with it
    caption: str
    names: list[str]  # of what was found, with numbers, the most first
    legend: dict[str, Sequence[int]] | None  # what colours mean


def draw_predictions(
    model: nn.Module, visualizer: Visualizer, picture: dict[str, Any], path: str | Path, score_thr: float = 0.3
) -> None:
    """Write input, keep map and predictions of one sample of a test set.

    Args:
        model: A detector, segmenter or classifier in evaluation mode.
        visualizer: The library's own, with ``dataset_meta`` set.
        picture: What the test pipeline returned.
        path: The PNG to write.
        score_thr: Boxes below it are not drawn.
    """
    batch = prepare_batch(model, [picture])
    with torch.no_grad(), record_selections(model) as taken:
        (sample,) = predict(model, batch)
    image = pixels_of(picture)
    share = slow_share(taken, tuple(batch["inputs"].shape[-2:]))[: image.shape[0], : image.shape[1]]
    found = draw_found(visualizer, image, sample, score_thr)
    captions = ("input", f"where it looked: {share.mean():.0%} of the decisions slow", found.caption)
    draw_where(path, image, share, found.drawn, captions, found.legend)


def pixels_of(picture: dict[str, Any]) -> np.ndarray:
    """(H, W, 3) RGB, as the network gets it from its test pipeline."""
    return picture["inputs"].permute(1, 2, 0).numpy()[..., ::-1].copy()  # the pipeline reads BGR


def draw_found(visualizer: Visualizer, image: np.ndarray, sample: Any, score_thr: float) -> Found:
    """Predictions on the picture (H, W, 3) that the network saw."""
    sample, classes = sample.cpu().clone(), visualizer.dataset_meta.get("classes") or ()
    if "pred_score" in sample:
        names = _best(sample.pred_score, classes)
        return Found(image, f"most likely {names[0]}", names, None)
    if "pred_instances" in sample:
        scale = max(1, round(SMALL / min(image.shape[:2])))
        sample.pred_instances.bboxes = sample.pred_instances.bboxes * scale * _input_scale(sample)
        large = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
        if "masks" in sample.pred_instances:
            masks = sample.pred_instances.masks.float()[:, None]
            sample.pred_instances.masks = F.interpolate(masks, large.shape[:2])[:, 0].bool() if len(masks) else masks
        options, legend = dict(pred_score_thr=score_thr), None
        labels = sample.pred_instances.labels[sample.pred_instances.scores > score_thr]
        names = [f"{count} {_name(classes, label)}" for label, count in Counter(labels.tolist()).most_common()]
        caption = f"detections, score > {score_thr:g}" if names else f"no detection has a score > {score_thr:g}"
    else:
        height, width = sample.pred_sem_seg.data.shape[-2:]
        large = cv2.resize(image, (width, height))
        options, caption = _without_names(visualizer), "segmentation"
        legend = legend_of(sample.pred_sem_seg.data.numpy(), visualizer.dataset_meta)
        names = list(legend)
    visualizer.add_datasample("", large, sample, draw_gt=False, **options)
    return Found(visualizer.get_image(), caption, names, legend)


def _best(scores: torch.Tensor, classes: Sequence[str]) -> list[str]:
    top = scores.topk(min(BEST, len(scores)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [f"{_name(classes, label)} {score:.2f}" for label, score in pairs]


def _name(classes: Sequence[str], label: int) -> str:
    return classes[label] if label < len(classes) else f"class {label}"


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
