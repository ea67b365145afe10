"""Small generated pictures for stock configs of any kind, with boxes, masks and label maps."""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import PixelData


def size_of(cfg: Config) -> int:
    """Side of the pictures; those who choose hundreds of queries among the locations need as many."""
    queries = cfg.model.get("num_queries", 0)
    if queries >= 50:
        return 256 if queries >= 300 else 128
    wide = any(kind in str(cfg.model) for kind in ("'DCN", "'SAC'"))  # kernels that must fit into the smallest map
    return max(128 if wide else 64, cfg.model.data_preprocessor.get("pad_size_divisor", 1))


def pictures(cfg: Config, count: int = 2, size: int | None = None) -> dict[str, Any]:
    """Square pictures with boxes, masks and label maps."""
    size = size or size_of(cfg)
    if cfg.default_scope == "mmseg":
        return segmentation_pictures(cfg, count, size)
    masks = loads_masks(cfg.train_dataloader)
    from mmdet.testing import demo_mm_inputs, demo_mm_proposals, demo_track_inputs

    if cfg.model.data_preprocessor.type == "TrackDataPreprocessor":
        return demo_track_inputs(image_shapes=(3, size, size), num_classes=2, with_mask=masks)
    shapes = [(3, size, size)] * count
    batch = demo_mm_inputs(count, shapes, num_items=[4] * count, num_classes=10, with_mask=masks, with_semantic=masks)
    for sample, proposals in zip(batch["data_samples"], demo_mm_proposals(shapes, 8)):
        sample.gt_instances.labels %= min(classes(cfg.model), default=10)
        if "rpn_head" not in cfg.model:
            sample.proposals = proposals  # from the data set; an RPN would not be asked
    return batch


def classes(tree: Any) -> Iterator[int]:
    """How many classes each head knows."""
    if isinstance(tree, dict):
        if isinstance(tree.get("num_classes"), int):
            yield tree["num_classes"]
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        for value in tree:
            yield from classes(value)


def loads_masks(tree: Any) -> bool:
    """Whether a data set's pipeline loads masks: a detector of boxes may not know what to do with them."""
    if isinstance(tree, dict):
        by_default = tree.get("type") == "LoadPanopticAnnotations"
        return tree.get("with_mask", by_default) is True or any(loads_masks(value) for value in tree.values())
    return isinstance(tree, list | tuple) and any(loads_masks(value) for value in tree)


def segmentation_pictures(cfg: Config, count: int, size: int) -> dict[str, Any]:
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    shape = (size, size)
    batch = []
    for _ in range(count):
        sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 2, (1, *shape), generator=generator))
        image = torch.randint(0, 256, (channels(cfg), *shape), generator=generator, dtype=torch.uint8)
        batch.append(dict(inputs=image, data_samples=sample))
    return pseudo_collate(batch)


def channels(cfg: Config) -> int:
    return len(cfg.model.data_preprocessor.get("mean") or (0, 0, 0))
