"""How sure is a difference of two detectors' mAP? Intervals over pictures that are drawn again, the same for both."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.fileio import load
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


@dataclass(frozen=True)
class Interval:
    """A number, and where it lies in 95 % of the draws."""

    value: float
    low: float
    high: float


class PictureAP:
    """COCO's bbox mAP of a detector over any pictures of an annotation file, each as often as wanted.

    Args:
        ann_file: Annotations in COCO's format.
        predictions: What mmdet's ``DumpDetResults`` writes, or its contents.
        classes: Names in the order of the detector's labels.
    """

    def __init__(self, ann_file: str | Path, predictions: str | Path | list[dict], classes: Sequence[str]) -> None:
        found = predictions if isinstance(predictions, list) else load(str(predictions))
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(ann_file))
            ids = truth.getCatIds(catNms=list(classes))
            by_name = {truth.cats[i]["name"]: i for i in ids}
            boxes = [box for picture in found for box in _boxes(picture, [by_name[name] for name in classes])]
            self._eval = COCOeval(truth, truth.loadRes(boxes) if boxes else _nothing(truth), "bbox")
            self._eval.params.catIds = ids
            self._eval.params.areaRng, self._eval.params.areaRngLbl = [[0, 1e10]], ["all"]
            self._eval.params.maxDets = [100]
            self._eval.evaluate()
        self.pictures = list(self._eval.params.imgIds)
        self._by_class = [
            self._eval.evalImgs[k * len(self.pictures) : (k + 1) * len(self.pictures)] for k in range(len(ids))
        ]

    def __call__(self, picks: Sequence[int] | np.ndarray | None = None) -> float:
        """Over the pictures of these numbers; None: over all."""
        picks = range(len(self.pictures)) if picks is None else picks
        self._eval.evalImgs = [row[i] for row in self._by_class for i in picks]
        self._eval.params.imgIds = self._eval._paramsEval.imgIds = list(range(len(picks)))
        with contextlib.redirect_stdout(io.StringIO()):
            self._eval.accumulate()
        precision = self._eval.eval["precision"]
        return float(precision[precision > -1].mean()) if (precision > -1).any() else float("nan")


def _boxes(picture: dict[str, Any], categories: Sequence[int]) -> list[dict[str, Any]]:
    found = picture["pred_instances"]
    return [
        dict(image_id=picture["img_id"], category_id=categories[label], score=score, bbox=[x0, y0, x1 - x0, y1 - y0])
        for (x0, y0, x1, y1), score, label in zip(
            found["bboxes"].tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True
        )
    ]


def _nothing(truth: COCO) -> COCO:
    """Results without a box, which ``loadRes`` does not take."""
    results = COCO()
    results.dataset = {**truth.dataset, "annotations": []}
    results.createIndex()
    return results


def difference(one: PictureAP, other: PictureAP, draws: int = 500, seed: int = 0) -> Interval:
    """mAP of one detector less that of the other, over the same pictures in each draw."""
    if one.pictures != other.pictures:
        raise ValueError("difference: expected argument `other` to be of the same pictures as `one`")
    random, count = np.random.default_rng(seed), len(one.pictures)
    drawn = [one(picks) - other(picks) for picks in random.integers(0, count, (draws, count))]
    return Interval(one() - other(), *(float(q) for q in np.nanquantile(drawn, [0.025, 0.975])))
