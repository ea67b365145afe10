"""Suppression of boxes through mmcv's functions, against plain loops over pairs."""

import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms, nms, nms_match, soft_nms
from torch import Tensor


def some_boxes(count: int, step: float = 0) -> tuple[Tensor, Tensor]:
    """Boxes (N, 4) that overlap a lot, and scores (N,), all different if they have no ``step``."""
    corner = torch.rand(count, 2) * 30
    scores = torch.rand(count)
    return torch.cat([corner, corner + 5 + torch.rand(count, 2) * 20], 1), (
        scores / step
    ).round() * step if step else scores


def iou(a: Tensor, b: Tensor, offset: int = 0) -> float:
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.tolist(), b.tolist()
    inter = max(0, min(ax2, bx2) - max(ax1, bx1) + offset) * max(0, min(ay2, by2) - max(ay1, by1) + offset)
    areas = ((x2 - x1 + offset) * (y2 - y1 + offset) for x1, y1, x2, y2 in ((ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2)))
    return inter / (sum(areas) - inter)


def plain_nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int = 0) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i].item()):  # stable: of equal ones the first is best
        if all(iou(boxes[i], boxes[j], offset) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_nms(either, count, offset):
    boxes, scores = some_boxes(count)
    dets, kept = nms(boxes, scores, 0.4, offset=offset)
    assert kept.tolist() == plain_nms(boxes, scores, 0.4, offset)
    torch.testing.assert_close(dets, torch.cat([boxes, scores[:, None]], 1)[kept], rtol=0, atol=0)
    assert count < 40 or 1 < len(kept) < 40


def test_nms_of_equal_scores_takes_the_first(served):
    boxes, scores = some_boxes(60, step=0.25)
    assert len(scores.unique()) == 5
    assert nms(boxes, scores, 0.4)[1].tolist() == plain_nms(boxes, scores, 0.4)


def test_nms_compares_in_single_precision(either):
    """An overlap of exactly 0.3 in single precision is not above a threshold of 0.3."""
    boxes = torch.tensor([[0, 0, 10, 1], [0, 0, 3, 1]], dtype=torch.float32)
    assert torch.tensor(0.3).item() > 0.3
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.3)[1].tolist() == [0, 1]
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.2999)[1].tolist() == [0]


def test_nms_filters_and_cuts_and_takes_arrays(either):
    boxes, scores = some_boxes(30)
    kept = [i for i in plain_nms(boxes, scores, 0.4) if scores[i] > 0.5]
    dets, indices = nms(boxes.numpy(), scores.numpy(), 0.4, score_threshold=0.5, max_num=3)
    assert isinstance(dets, np.ndarray) and indices.tolist() == kept[:3]


def test_nms_takes_views_and_any_precision(served):
    boxes, scores = some_boxes(80)
    boxes, scores = boxes.t().contiguous().t()[1::2], scores[1::2]
    assert not boxes.is_contiguous() and not scores.is_contiguous()
    expected = plain_nms(boxes, scores, 0.4)
    assert nms(boxes, scores, 0.4)[1].tolist() == expected
    assert nms(boxes.double(), scores.double(), 0.4)[1].tolist() == expected
    boxes, scores = boxes.bfloat16(), scores.bfloat16()
    assert nms(boxes, scores, 0.4)[1].tolist() == plain_nms(boxes.float(), scores.float(), 0.4)


def plain_soft_nms(
    boxes: Tensor, scores: Tensor, threshold: float, sigma: float, min_score: float, method: str, offset: int
) -> tuple[list[int], list[float]]:
    left, done = dict(enumerate(scores.tolist())), {}
    while left:
        best = max(left, key=left.get)
        done[best] = left.pop(best)
        for i in list(left):
            overlap = iou(boxes[best], boxes[i], offset)
            if method == "gaussian":
                left[i] *= np.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                left[i] *= 0 if method == "naive" else 1 - overlap
            if left[i] < min_score:
                del left[i]
    return list(done), list(done.values())


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("count", [0, 1, 30])
def test_soft_nms(either, count, method, offset):
    boxes, scores = some_boxes(count)
    before = boxes.clone(), scores.clone()
    dets, kept = soft_nms(boxes, scores, 0.3, sigma=0.4, min_score=0.2, method=method, offset=offset)
    indices, values = plain_soft_nms(boxes, scores, 0.3, 0.4, 0.2, method, offset)
    assert kept.tolist() == indices and (count < 30 or 2 < len(indices) < 30)
    torch.testing.assert_close(dets[:, 4], torch.tensor(values, dtype=torch.float32), rtol=1e-5, atol=1e-6)
    assert torch.equal(dets[:, :4], boxes[kept])
    assert torch.equal(boxes, before[0]) and torch.equal(scores, before[1])


@pytest.mark.parametrize("count", [0, 1, 30])
def test_nms_match(either, count):
    boxes, scores = some_boxes(count)
    left = sorted(range(count), key=lambda i: -scores[i].item())
    groups = []
    while left:
        groups.append([i for i in left if i == left[0] or iou(boxes[left[0]], boxes[i]) >= 0.3])
        left = [i for i in left if i not in groups[-1]]
    matched = nms_match(torch.cat([boxes, scores[:, None]], 1), 0.3)
    assert [group.tolist() for group in matched] == groups and (count < 30 or 1 < len(groups) < 30)


@pytest.mark.parametrize("split_thr", [10000, 20], ids=["at once", "by class"])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("soft", [False, True])
def test_batched_nms(either, soft, classes, split_thr):
    boxes, scores = some_boxes(50)
    labels = torch.arange(50) % classes
    cfg = dict(type="soft_nms", iou_threshold=0.3, min_score=0.3) if soft else dict(type="nms", iou_threshold=0.4)
    dets, kept = batched_nms(boxes, scores, labels, dict(cfg, split_thr=split_thr))
    expected = {}
    for label in range(classes):
        of = (labels == label).nonzero()[:, 0]
        if soft:
            indices, values = plain_soft_nms(boxes[of], scores[of], 0.3, 0.5, 0.3, "linear", 0)
        else:
            indices = plain_nms(boxes[of], scores[of], 0.4)
            values = scores[of][indices].tolist()
        expected |= dict(zip(of[indices].tolist(), values))
    assert kept.tolist() == sorted(expected, key=lambda i: -expected[i])
    torch.testing.assert_close(dets[:, 4], torch.tensor([expected[i] for i in kept.tolist()]), rtol=1e-4, atol=1e-5)
    assert torch.equal(dets[:, :4], boxes[kept])


def test_batched_nms_without_classes_and_without_boxes(either):
    boxes, scores = some_boxes(50)
    _, kept = batched_nms(boxes, scores, torch.arange(50) % 3, dict(iou_threshold=0.4), class_agnostic=True)
    assert kept.tolist() == plain_nms(boxes, scores, 0.4)
    _, kept = batched_nms(boxes, scores, torch.arange(50) % 3, dict(iou_threshold=0.4, class_agnostic=True))
    assert kept.tolist() == plain_nms(boxes, scores, 0.4)
    dets, kept = batched_nms(boxes[:0], scores[:0], torch.arange(0), dict(iou_threshold=0.4), class_agnostic=True)
    assert dets.shape == (0, 5) and kept.shape == (0,)


def test_the_stand_in_suppresses_as_the_compiled_one(served, compiled):
    boxes, scores = some_boxes(150)
    for threshold in (0.3, 0.5, 0.7):
        for offset in (0, 1):
            how = dict(iou_threshold=threshold, offset=offset)
            assert torch.equal(served.nms(boxes, scores, **how), compiled.nms(boxes, scores, **how))
            for values in (scores, (scores * 10).round() / 10):  # many are equal
                for method in range(3):
                    dets = boxes.new_zeros(2, len(boxes), 5)
                    more = dict(how, sigma=0.5, min_score=0.05, method=method)
                    kept = [module.softnms(boxes, values, d, **more) for module, d in zip((served, compiled), dets)]
                    assert torch.equal(*kept)
                    torch.testing.assert_close(dets[0, : len(kept[0])], dets[1, : len(kept[0])])
        dets = torch.cat([boxes, scores[:, None]], 1)
        assert served.nms_match(dets, threshold) == compiled.nms_match(dets, threshold)
