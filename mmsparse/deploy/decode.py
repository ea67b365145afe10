"""What raw results mean, as a part of what is exported: boxes that survive suppression, a label map, scores.

No shape depends on data here either: the best of what is left is taken as often as there may be results.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Results = dict[str, Any]  # by the names that the head's own post-processing has for them
Decode = Callable[[Results, Tensor, Tensor | None], dict[str, Tensor]]  # of raw results, pictures, real sizes
NMS_KEYS = {"type", "iou_threshold", "class_agnostic", "split_thr"}  # the last one changes no result


def decoder_of(model: nn.Module, kind: str) -> Decode:
    """What follows a model's raw results, which must be what its own post-processing is.

    Args:
        model: A detector, segmenter or classifier.
        kind: Which of them, see ``program.kind_of``.
    """
    decoders = {"detector": _boxes_of, "segmenter": _label_map_of, "classifier": _scores_of}
    if kind not in decoders:
        raise ValueError(
            f"--decoded is for dense detectors, segmenters and classifiers, but got {kind}. Export without"
        )
    return decoders[kind](model)


def _refuse(head: nn.Module, what: str) -> None:
    raise ValueError(f"--decoded cannot do what a {type(head).__name__} does with {what}. Export without --decoded")


def _inherits(head: nn.Module, stock: type[nn.Module], *methods: str) -> bool:
    return isinstance(head, stock) and all(getattr(type(head), name) is getattr(stock, name) for name in methods)


def _scores_of(model: nn.Module) -> Decode:
    from mmpretrain.models.heads import ClsHead

    if not _inherits(model.head, ClsHead, "predict", "_get_predictions"):
        _refuse(model.head, "its scores")
    return lambda results, pictures, sizes: {"scores": results["cls_score"].softmax(1)}


def _label_map_of(model: nn.Module) -> Decode:
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    head = model.decode_head
    if not _inherits(head, BaseDecodeHead, "predict_by_feat"):
        _refuse(head, "its logits")

    def decode(results: Results, pictures: Tensor, sizes: Tensor | None) -> dict[str, Tensor]:
        (logits,) = results.values()
        logits = F.interpolate(logits, pictures.shape[-2:], mode="bilinear", align_corners=head.align_corners)
        if logits.shape[1] == 1:
            return {"labels": (logits[:, 0].sigmoid() > head.threshold).long()}
        return {"labels": logits.argmax(1)}  # (B, H, W)

    return decode


def _boxes_of(model: nn.Module) -> Decode:
    from mmdet.models.dense_heads import GFLHead
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
    from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder, DistancePointBBoxCoder

    head = model.bbox_head
    integral = _inherits(head, GFLHead, "_predict_by_feat_single")
    own = ["predict", "predict_by_feat", "_bbox_post_process", *["_predict_by_feat_single"] * (not integral)]
    if not _inherits(head, BaseDenseHead, *own) or getattr(head.loss_cls, "custom_cls_channels", False):
        _refuse(head, "its results")
    if type(head.bbox_coder) not in (DeltaXYWHBBoxCoder, DistancePointBBoxCoder):
        _refuse(head, f"a {type(head.bbox_coder).__name__}")
    cfg = head.test_cfg
    if min(cfg.get("nms_pre", -1), cfg.get("max_per_img", -1)) < 1:
        _refuse(head, f"test_cfg of nms_pre={cfg.get('nms_pre')} and max_per_img={cfg.get('max_per_img')}")
    nms = cfg.nms
    if nms.get("type", "nms") != "nms" or not nms.keys() <= NMS_KEYS or not 0 <= nms.get("iou_threshold", -1) < 1:
        _refuse(head, f"test_cfg.nms={dict(nms)}")
    return partial(_decode_boxes, head, _integral_boxes if integral else _plain_boxes)


Boxes = Callable[[nn.Module, Tensor, Tensor, int], Tensor]


def _plain_boxes(head: nn.Module, priors: Tensor, regressed: Tensor, level: int) -> Tensor:
    return head.bbox_coder.decode(priors, regressed)


def _integral_boxes(head: nn.Module, priors: Tensor, regressed: Tensor, level: int) -> Tensor:
    """Of distributions over distances in strides, GFL's."""
    distances = head.integral(regressed) * head.prior_generator.strides[level][0]
    return head.bbox_coder.decode(head.anchor_center(priors), distances)


def _decode_boxes(
    head: nn.Module, boxes_of: Boxes, results: Results, pictures: Tensor, sizes: Tensor | None
) -> dict[str, Tensor]:
    """``dets`` (B, N, 5): boxes and scores, the best first, and ``labels`` (B, N), -1 where there is nothing."""
    cfg, maps = head.test_cfg, results["cls_scores"]
    factors = results.get("score_factors") or [None] * len(maps)
    priors = head.prior_generator.grid_priors([x.shape[-2:] for x in maps], dtype=maps[0].dtype, device=maps[0].device)
    found = [
        _best_of_level(head, partial(boxes_of, head, level=level), *level_results)
        for level, level_results in enumerate(zip(maps, results["bbox_preds"], factors, priors, strict=True))
    ]
    boxes, scores, labels = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    if head.bbox_coder.clip_border:
        height, width = pictures.shape[-2:]
        high = boxes.new_tensor([[width, height]]) if sizes is None else sizes.flip(1).to(boxes)
        boxes = torch.minimum(boxes.clamp_min(0), high.repeat(1, 2)[:, None])
    # Boxes of no area, which suppression would not see, are never found
    sides = boxes[..., 2:] - boxes[..., :2]
    scores = torch.where((sides > max(cfg.get("min_bbox_size", 0), 0)).all(-1), scores, -1.0)
    return _survivors(boxes, scores, labels, cfg.nms, cfg.max_per_img)


def _best_of_level(
    head: nn.Module,
    boxes_of: Callable[[Tensor, Tensor], Tensor],
    scores: Tensor,
    regressed: Tensor,
    factors: Tensor | None,
    priors: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, K, 4), scores and labels (B, K) of a level; a score is -1 if it does not pass the threshold.

    The best K pairs of a prior and a class are of the K priors whose best class is best, so that none of the large maps
    is sorted or laid out anew.
    """
    cfg, anchors, area = head.test_cfg, head.num_base_priors, scores.shape[-2] * scores.shape[-1]
    scores = scores.flatten(2).unflatten(1, (anchors, -1))  # (B, A, classes, HW)
    if not head.use_sigmoid_cls:
        scores = scores.softmax(2)[:, :, :-1]
    best = scores.max(2).values.flatten(1)  # (B, A * HW)
    where = best.topk(min(cfg.nms_pre, anchors * area)).indices  # (B, K)
    pairs = _rows(scores, where)  # (B, K, classes)
    classes = pairs.shape[-1]
    scores, chosen = pairs.flatten(1).topk(min(cfg.nms_pre, pairs[0].numel()))
    if head.use_sigmoid_cls:  # of a few, for it changes no order
        scores = scores.sigmoid()
    passing = scores > cfg.get("score_thr", 0)
    where = where.gather(1, _div(chosen, classes))
    if factors is not None:
        scores = scores * _rows(factors.flatten(2)[:, :, None], where)[..., 0].sigmoid()
    regressed = _rows(regressed.flatten(2).unflatten(1, (anchors, -1)), where)  # (B, K, 4)
    priors = priors[((where % area) * anchors + _div(where, area)).flatten()]  # of each place all anchors
    boxes = boxes_of(priors, regressed.flatten(0, 1)).unflatten(0, (len(where), -1))
    return boxes, torch.where(passing, scores, -1.0), chosen % classes


def _rows(maps: Tensor, where: Tensor) -> Tensor:
    """(B, K, C) of maps (B, A, C, HW) at numbers (B, K) of anchors and places, anchor * HW + place."""
    channels, area = maps.shape[2:]
    first = _div(where, area) * (channels * area) + where % area
    numbers = first[..., None] + torch.arange(channels) * area
    return maps.flatten(1).gather(1, numbers.flatten(1)).unflatten(1, (-1, channels))


def _div(numbers: Tensor, by: int) -> Tensor:
    return torch.div(numbers, by, rounding_mode="floor")


def _survivors(boxes: Tensor, scores: Tensor, labels: Tensor, nms: dict[str, Any], count: int) -> dict[str, Tensor]:
    """Greedy suppression, a step for each result: the best one is taken, and what overlaps it is gone.

    Two boxes a, b with areas A, B and intersection I overlap by more than t if I > t (A + B - I), which is
    I > A t / (1 + t) + B t / (1 + t). By this, each overlaps itself.
    """
    apart = boxes
    if not nms.get("class_agnostic", False):
        apart = boxes + (labels * (boxes.flatten(1).max(1, keepdim=True).values + 1))[..., None]
    corners = apart.transpose(1, 2)  # (B, 4, K)
    low, high = corners.split(2, 1)
    share = nms["iou_threshold"] / (1 + nms["iou_threshold"])
    areas = (high - low).prod(1, keepdim=True) * share  # (B, 1, K)
    rows, left = torch.cat([corners, areas], 1), scores[:, None]
    taken: list[tuple[Tensor, Tensor]] = []
    for _ in range(count):
        best, index = left.max(2, keepdim=True)
        its_low, its_high, its_area = rows.gather(2, index.expand(-1, 5, -1)).split([2, 2, 1], 1)
        sides = (torch.minimum(high, its_high) - torch.maximum(low, its_low)).clamp_min(0)
        left = torch.where(sides.prod(1, keepdim=True) > areas + its_area, -1.0, left)
        taken.append((best[..., 0], index[..., 0]))
    scores, index = (torch.cat(parts, 1) for parts in zip(*taken, strict=True))  # (B, N)
    found = scores >= 0
    dets = torch.cat([boxes.gather(1, index[..., None].expand(-1, -1, 4)), scores[..., None]], -1)
    return {"dets": torch.where(found[..., None], dets, 0.0), "labels": torch.where(found, labels.gather(1, index), -1)}
