"""What a network finds in picture files, by the stock inferencer of its library."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from mmengine.config import Config
from torch import nn

from mmsparse.cli.building import meta_of

RESULTS = {"mmdet": ".json", "mmseg": ".png", "mmpretrain": ".json"}  # suffix of a result's file by default_scope


class Found(NamedTuple):
    """A picture's result as a file holds it, and the picture with the result drawn on it."""

    content: bytes
    drawn: np.ndarray | None  # (H, W, 3), RGB


Infer = Callable[[Sequence[str], bool], list[Found]]  # names of pictures, and whether to draw; a result each


def check_predictable(cfg: Config) -> None:
    """Refuse a config that has no way for pictures to go."""
    if (scope := cfg.get("default_scope")) not in RESULTS:
        raise ValueError(f"Expected `default_scope` to be one of {', '.join(RESULTS)}, but got {scope!r}")
    if "pipeline" not in ((cfg.get("test_dataloader") or {}).get("dataset") or {}):
        raise ValueError("Argument `config`: it has no test_dataloader.dataset.pipeline for pictures to go through")


def inferencer_of(model: nn.Module, cfg: Config, score_thr: float) -> Infer:
    """What runs pictures through a model that is built, by its config's own test pipeline.

    Args:
        model: A detector, segmenter or classifier in evaluation; what `serve` made of one as well.
        cfg: Its config, which is not read from again.
        score_thr: Boxes below it are not drawn.
    """
    if "visualizer" in cfg:
        cfg.visualizer.vis_backends = None  # what is drawn is taken from it
    kinds = {"mmdet": _detecting, "mmseg": _segmenting, "mmpretrain": _classifying}
    return kinds[cfg.default_scope](model, cfg, score_thr)


def drawing_meta(cfg: Config) -> dict[str, Any]:
    """The classes of a config's test set and their colours."""
    meta = meta_of(cfg)
    classes, palette = meta.get("classes"), meta.get("palette")
    if cfg.default_scope != "mmseg":
        return dict(classes=classes, palette=palette or "random")
    if not classes:
        raise ValueError(
            "Argument `config`: its test set names no classes. Set test_dataloader.dataset.metainfo.classes"
        )
    if palette is None or len(palette) != len(classes):
        palette = np.random.default_rng(0).integers(0, 256, (len(classes), 3)).tolist()
    return dict(classes=classes, palette=palette)


def _detecting(model: nn.Module, cfg: Config, score_thr: float) -> Infer:
    from mmdet.apis import DetInferencer

    model.dataset_meta = drawing_meta(cfg)
    inferencer = _of_built(DetInferencer, model, cfg)

    def infer(pictures: Sequence[str], draw: bool) -> list[Found]:
        done = inferencer(list(pictures), batch_size=len(pictures), return_vis=draw, pred_score_thr=score_thr)
        drawn = done["visualization"] or [None] * len(pictures)
        return [Found(_json(found), picture) for found, picture in zip(done["predictions"], drawn, strict=True)]

    return infer


def _segmenting(model: nn.Module, cfg: Config, score_thr: float) -> Infer:
    from mmseg.apis import MMSegInferencer

    model.dataset_meta = drawing_meta(cfg)
    inferencer = _of_built(MMSegInferencer, model, cfg)

    def infer(pictures: Sequence[str], draw: bool) -> list[Found]:
        done = inferencer(list(pictures), batch_size=len(pictures), return_vis=draw)
        maps, drawn = (done[key] if len(pictures) > 1 else [done[key]] for key in ("predictions", "visualization"))
        drawn = drawn if draw else [None] * len(pictures)
        return [Found(_png(found), picture) for found, picture in zip(maps, drawn, strict=True)]

    return infer


def _classifying(model: nn.Module, cfg: Config, score_thr: float) -> Infer:
    from mmpretrain.apis import ImageClassificationInferencer
    from mmpretrain.visualization import UniversalVisualizer

    model._config = cfg
    inferencer = ImageClassificationInferencer(model, classes=meta_of(cfg).get("classes"))
    visualizer = UniversalVisualizer()

    def infer(pictures: Sequence[str], draw: bool) -> list[Found]:
        (batch,) = inferencer.preprocess(list(pictures), len(pictures))  # a call would show a bar of its own
        samples = inferencer.forward(batch)
        found = []
        for name, sample, result in zip(pictures, samples, inferencer.postprocess(samples, []), strict=True):
            drawn = None
            if draw:
                image = cv2.imread(name)[..., ::-1]
                drawn = visualizer.visualize_cls(image, sample, classes=inferencer.classes, draw_gt=False)
            found.append(Found(_json({**result, "pred_scores": result["pred_scores"].tolist()}), drawn))
        return found

    return infer


def _of_built(kind: type[Any], model: nn.Module, cfg: Config) -> Any:
    """An inferencer that takes a model that is there."""

    class Ready(kind):
        def _init_model(self, *_: Any) -> nn.Module:
            return model

    logging.disable()  # it looks for functions in scopes that have none
    try:
        inferencer = Ready(cfg, scope=cfg.default_scope)
    finally:
        logging.disable(logging.NOTSET)
    inferencer.show_progress = False  # no argument of mmseg 1.2's
    return inferencer


def coco_of(results: Mapping[str, Path], classes: Sequence[str]) -> bytes:
    """Boxes of all pictures as COCO has them, with scores; pictures and classes are counted from 1."""
    images, annotations, largest = [], [], len(classes)
    for number, (name, file) in enumerate(results.items(), 1):
        found = json.loads(file.read_text())
        images.append({"id": number, "file_name": name})
        masks = found.get("masks") or [None] * len(found["labels"])
        for label, score, box, mask in zip(found["labels"], found["scores"], found["bboxes"], masks, strict=True):
            corner = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            one = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "bbox": corner}
            annotations.append({**one, "score": score, **({"segmentation": mask} if mask else {})})
            largest = max(largest, label + 1)
    names = [*classes, *(f"class {label}" for label in range(len(classes), largest))]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    return (json.dumps({"images": images, "annotations": annotations, "categories": categories}) + "\n").encode()


def _json(result: dict[str, Any]) -> bytes:
    return (json.dumps(result) + "\n").encode()


def _png(label_map: np.ndarray) -> bytes:
    return cv2.imencode(".png", label_map.astype(np.uint8))[1].tobytes()
