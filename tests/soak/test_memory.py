"""The most memory that a step takes, routed at its budget and dense, each in a process of its own."""

import ctypes
import gc
import logging
import multiprocessing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from scenes import ROOT
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from mmsparse import compat
from mmsparse.apis import find_deciders, get_keep_ratio, pop_aux
from mmsparse.calls import predict, prepare_batch
from mmsparse.cli.building import build_plain, random_pictures
from mmsparse.configs import read_config

pytestmark = pytest.mark.soak
BATCH, OBJECTS = 2, 20


class Network(NamedTuple):
    """A config, and the height and width of its pictures."""

    config: str
    side: int


NETWORKS = {
    "RetinaNet": Network("retinanet_dynamic-convnext-t_whole-k50_fpn_amp-ms-crop-3x_coco.py", 1333),
    "Mask R-CNN": Network("mask-rcnn_dynamic-convnext-t_whole-k50_fpn_amp-ms-crop-3x_coco.py", 1333),
    "UPerNet": Network("dynamic-convnext-t_whole-k50_upernet_8xb2-amp-160k_ade20k-512x512.py", 512),
}


class Peak(NamedTuple):
    """Bytes that a step added to what was there."""

    allocated: int  # by torch: exact, the same in each run
    resident: int  # in all, with what the allocators of torch's libraries and of C keep


def built(network: Network, routed: bool) -> tuple[nn.Module, Config]:
    """A model with the weights that its training begins with, and its config."""
    compat.prepare()
    torch.manual_seed(0)
    cfg = read_config(str(ROOT / "configs/dynamic_convnext" / network.config))
    for part in cfg.model.values():
        if isinstance(part, dict) and part.get("sparsity") is not None and not routed:
            part.sparsity = None
    model = build_plain(cfg)
    logging.disable()
    model.init_weights()  # a detector that believes in nothing has as little to sort as one that is trained
    logging.disable(logging.NOTSET)
    assert bool(find_deciders(model)) == routed and all(decider.progress == 1.0 for decider in find_deciders(model))
    return model, cfg


def labelled(cfg: Config, side: int) -> list[dict[str, Any]]:
    """Noise with objects of many sizes, or with a class at each pixel."""
    generator = torch.Generator().manual_seed(1)
    pictures = random_pictures(cfg, BATCH, (side, side))
    for picture in pictures:
        sample = picture["data_samples"]
        if cfg.default_scope == "mmseg":
            sample.gt_sem_seg = PixelData(data=torch.randint(0, 150, (1, side, side), generator=generator))
            continue
        corner, size = (torch.rand(OBJECTS, 2, generator=generator) * side for _ in range(2))
        boxes = torch.cat([0.7 * corner, 0.7 * corner + 0.2 * size + 16], dim=1)
        labels = torch.randint(0, 80, (OBJECTS,), generator=generator)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels, masks=filled(boxes, side))
    return pictures


def filled(boxes: Tensor, side: int) -> Any:
    """Masks that fill their boxes."""
    from mmdet.structures.mask import BitmapMasks

    masks = np.zeros((len(boxes), side, side), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    return BitmapMasks(masks, side, side)


def train(model: nn.Module, pictures: list[dict[str, Any]]) -> None:
    """A forward and a backward, with the losses of ``SparsityHook``."""
    batch = {key: [picture[key] for picture in pictures] for key in ("inputs", "data_samples")}
    data = model.data_preprocessor(batch, training=True)
    losses = model.loss(data["inputs"], data["data_samples"])
    total = sum(sum(value) if isinstance(value, list) else value for name, value in losses.items() if "loss" in name)
    total += sum(aux.regression for aux in pop_aux(model) if aux.regression is not None)
    total.backward()


def infer(model: nn.Module, pictures: list[dict[str, Any]]) -> None:
    with torch.no_grad():
        predict(model, prepare_batch(model, pictures))


def of_process(name: str) -> int:
    """An entry of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def measured(network: Network, routed: bool, training: bool) -> tuple[Peak, dict[str, float]]:
    """What the first step takes, and the budgets that it kept to."""
    torch.set_num_threads(1)
    model, cfg = built(network, routed)
    pictures = labelled(cfg, network.side)
    step = train if training else infer
    model.train(training)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # what was the most, begins anew
    before = of_process("VmRSS")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step(model, pictures)
        resident = of_process("VmHWM") - before
    events = sorted(profiled.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return Peak(int(np.cumsum(changes).max()), resident), get_keep_ratio(model)


def apart(*args: Any) -> tuple[Peak, dict[str, float]]:
    """In a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as alone:
        return alone.apply(measured, args)


CASES = [
    pytest.param(name, training, id=f"{name}, {'training' if training else 'inference'}")
    for name in NETWORKS
    for training in (False, True)
]


@pytest.mark.parametrize("name, training", CASES)
def test_a_routed_step_takes_no_more_memory_than_a_dense_one(name, training, figures):
    network = NETWORKS[name]
    dense, none = apart(network, False, training)
    routed, budgets = apart(network, True, training)
    assert set(none.values()) == set() and min(budgets.values()) >= 0.1 and max(budgets.values()) <= 0.6
    figures[f"memory of {name}, {'training' if training else 'inference'}"] = dict(
        side=network.side, batch=BATCH,
        dense_mb=round(dense.allocated / 1e6, 1), routed_mb=round(routed.allocated / 1e6, 1),
        ratio=round(routed.allocated / dense.allocated, 3),
        dense_resident_mb=round(dense.resident / 1e6, 1), routed_resident_mb=round(routed.resident / 1e6, 1),
        resident_ratio=round(routed.resident / dense.resident, 3),
    )  # fmt: skip
    assert dense.allocated > 5e8  # maps of all locations
    assert routed.allocated <= dense.allocated
