"""What a training step of a routed network costs beside the dense one: time in turn, and peak memory.

    python tools/misc/training_cost.py CONFIG

Random weights and pictures; keep ratios are scaled to --macs of the dense arithmetic, and the slow path is tried for
--explore of what is not selected. A step is a forward and a backward; memory is what a process of its own grows by.
"""

import argparse
import gc
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from tqdm import tqdm

from mmsparse.analysis import fit_keep_ratio
from mmsparse.apis import find_dials, pop_aux
from mmsparse.calls import predict, prepare_batch
from mmsparse.cli.arguments import add_config_options
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_plain, random_pictures
from mmsparse.cli.main import run_script
from mmsparse.cli.rivals import processor

DENSE, ROUTED = "dense", "routed"
Step = Callable[[], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config")
    parser.add_argument("--shape", type=int, nargs=2, default=(512, 512), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--macs", type=float, default=0.6, help="share of the dense arithmetic")
    parser.add_argument("--explore", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    add_config_options(parser)


def run(args: argparse.Namespace) -> None:
    if not 0.0 < args.macs < 1.0:
        raise ValueError(f"Expected argument `--macs` to be above 0 and below 1, but got {args.macs}")
    if not _dynamic_parts(open_config(args.config, args.cfg_options)):
        raise ValueError(f"{args.config} has no dynamic part: its training costs what it costs")
    peaks = {}
    for kind in (DENSE, ROUTED):
        with multiprocessing.get_context("forkserver").Pool(1) as alone:
            peaks[kind] = alone.apply(_peak, (vars(args), kind))
    torch.set_num_threads(args.threads)
    steps = {kind: _step(args, kind) for kind in (DENSE, ROUTED)}
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    for number in tqdm(range(args.rounds + 1), desc="steps", leave=False):
        for kind, step in steps.items():
            gc.collect()
            begun = time.perf_counter()
            step()
            if number:
                times[kind].append(time.perf_counter() - begun)
    height, width = args.shape
    print(f"{Path(args.config).name}\n{processor()}, {args.threads} threads, torch {torch.__version__}, float32, batch "
          f"{args.batch} of {height}x{width}, {args.macs:.0%} of the arithmetic, explore {args.explore}")  # fmt: skip
    for kind in steps:
        print(f"{kind:<8}{np.median(times[kind]):8.2f} s a step{peaks[kind] / 1e6:10.0f} MB")
    share = np.median(np.divide(times[ROUTED], times[DENSE]))
    print(f"{'of dense':<8}{share:8.2f}{'':9}{peaks[ROUTED] / peaks[DENSE]:10.2f}")


def _peak(arguments: dict[str, Any], kind: str) -> int:
    """Bytes that a process grows by in two steps."""
    args = argparse.Namespace(**arguments)
    torch.set_num_threads(args.threads)
    step = _step(args, kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        step()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def _step(args: argparse.Namespace, kind: str) -> Step:
    torch.manual_seed(0)
    cfg = open_config(args.config, args.cfg_options)
    for part in _dynamic_parts(cfg):
        part.sparsity = None if kind == DENSE else {**part.sparsity, "explore": args.explore}
    size = tuple(args.shape)
    model, pictures = build_plain(cfg), random_pictures(cfg, args.batch, size)
    if kind == ROUTED:
        first = prepare_batch(model.eval(), random_pictures(cfg, 1, size))
        fit_keep_ratio(model, args.macs, partial(predict, model, first))
    batch = _labelled(cfg, pictures, size)
    return partial(_forward_and_backward, model.train(), batch)


def _dynamic_parts(cfg: Config) -> list[Any]:
    return [part for part in cfg.model.values() if isinstance(part, dict) and part.get("sparsity") is not None]


def _labelled(cfg: Config, pictures: list[dict[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
    samples = [picture["data_samples"] for picture in pictures]
    for sample in samples:
        if cfg.default_scope == "mmdet":
            boxes = torch.tensor([[0.1, 0.1, 0.4, 0.5], [0.5, 0.6, 0.6, 0.7]]) * torch.tensor(
                [*size[::-1], *size[::-1]]
            )
            sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1]))
        elif cfg.default_scope == "mmseg":
            sample.gt_sem_seg = PixelData(data=torch.randint(0, 2, (1, *size)))
        else:
            sample.set_gt_label(0)
    return dict(inputs=[picture["inputs"] for picture in pictures], data_samples=samples)


def _forward_and_backward(model: torch.nn.Module, batch: dict[str, Any]) -> None:
    data = model.data_preprocessor(batch, training=True)
    losses = model.loss(data["inputs"], data["data_samples"])
    total = sum(sum(value) if isinstance(value, list) else value for name, value in losses.items() if "loss" in name)
    if find_dials(model):
        total = total + sum(aux.regression for aux in pop_aux(model) if aux.regression is not None)
    total.backward()
    model.zero_grad(set_to_none=True)


if __name__ == "__main__":
    sys.exit(run_script(__doc__, add_arguments, run))
