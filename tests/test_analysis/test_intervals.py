"""Intervals of differences of mAP over pictures."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmsparse.analysis.intervals import PictureAP, difference

CLASSES = ("one", "two")


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    random = np.random.default_rng(0)
    images = [dict(id=i + 7, file_name=f"{i}.jpg", width=100, height=100) for i in range(20)]
    boxes = [
        dict(id=n + 1, image_id=images[n % 20]["id"], category_id=int(random.integers(2)) * 3 + 2, iscrowd=0,
             bbox=[*random.uniform(0, 60, 2), *random.uniform(10, 40, 2)])
        for n in range(60)
    ]  # fmt: skip
    for box in boxes:
        box["area"] = box["bbox"][2] * box["bbox"][3]
    categories = [dict(id=2, name="one"), dict(id=5, name="two")]
    path = tmp_path_factory.mktemp("ap") / "truth.json"
    path.write_text(json.dumps(dict(images=images, annotations=boxes, categories=categories)))
    return path


def detector(truth, noise, seed):
    """Boxes that are off by so many pixels, half of them with a doubtful score."""
    random, data, found = np.random.default_rng(seed), json.loads(truth.read_text()), []
    for image in data["images"]:
        own = [a for a in data["annotations"] if a["image_id"] == image["id"]]
        boxes = np.array([a["bbox"] for a in own]) + noise * random.standard_normal((len(own), 4))
        boxes[:, 2:] += boxes[:, :2]
        found.append(dict(img_id=image["id"], pred_instances=dict(
            bboxes=torch.tensor(boxes), scores=torch.tensor(random.uniform(0, 1, len(own))),
            labels=torch.tensor([0 if a["category_id"] == 2 else 1 for a in own]),
        )))  # fmt: skip
    return found


def test_all_pictures_give_cocos_number(truth):
    found = detector(truth, 3.0, 1)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        boxes = [
            dict(image_id=p["img_id"], category_id=2 + 3 * int(label), score=float(score),
                 bbox=[*box[:2].tolist(), *(box[2:] - box[:2]).tolist()])
            for p in found for box, score, label in zip(*p["pred_instances"].values(), strict=True)
        ]  # fmt: skip
        evaluation = COCOeval(coco, coco.loadRes(boxes), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap = PictureAP(truth, found, CLASSES)
    assert ap() == pytest.approx(evaluation.stats[0], abs=1e-9)
    assert ap(np.repeat(np.arange(20), 2)) == pytest.approx(ap(), abs=0.02)  # each picture twice


def test_an_interval_tells_better_from_equal(truth):
    good, same, bad = (PictureAP(truth, detector(truth, n, s), CLASSES) for n, s in ((1.0, 1), (1.0, 2), (6.0, 3)))
    alike = difference(good, good, draws=20)
    assert (alike.value, alike.low, alike.high) == (0, 0, 0)
    clear, unclear = difference(good, bad, draws=100), difference(good, same, draws=100)
    assert clear.low > 0 and clear.low < clear.value < clear.high
    assert unclear.low < 0 < unclear.high


def test_a_detector_that_finds_nothing(truth):
    nothing = [
        dict(img_id=i + 7, pred_instances=dict(
            bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.long)
        ))
        for i in range(20)
    ]  # fmt: skip
    assert PictureAP(truth, nothing, CLASSES)() == 0.0
