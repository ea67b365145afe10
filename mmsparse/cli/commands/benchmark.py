"""Latency of a routed network beside its dense twin: in turn, in one process, on the same pictures.

The dense twin runs contiguous and channels-last, and its faster layout is what the routed network is compared with.
With --rivals also in other runtimes and precisions, and beside a smaller picture and other networks: each up to
post-processing, for each number of threads. The figures are written to --out; what is interrupted goes on from there.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from mmsparse.analysis import Latency, count_macs
from mmsparse.analysis.report import time_beside_dense
from mmsparse.apis import dense_twin, find_dials, get_keep_ratio
from mmsparse.calls import predict, prepare_batch
from mmsparse.cli.arguments import add_config_options, add_keep_ratio, positive, read_keep_ratio
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_model, machine, random_pictures, read_pictures
from mmsparse.cli.numbers import add_json
from mmsparse.cli.rivals import run_rivals
from mmsparse.deploy.program import PARTS
from mmsparse.deploy.rivals import RUNTIMES
from mmsparse.trust import add_trust, trust_checkpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config")
    parser.add_argument("--checkpoint", help="weights; per-image budgets need them to be meaningful")
    add_keep_ratio(parser)
    parser.add_argument("--batch-sizes", type=positive, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=positive, default=20, help="timed rounds; each times every network once")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument(
        "--threads", type=positive, nargs="+", help="CPU threads, one or several; default: all of torch's"
    )
    parser.add_argument(
        "--shape", type=positive, nargs=2, metavar=("H", "W"), help="random pictures instead of real ones"
    )
    parser.add_argument("--rivals", nargs="*", metavar="CONFIG", help="further networks; none: those made of this one")
    parser.add_argument(
        "--forms", nargs="+", default=["eager", "onnx", "openvino"],
        help=f"of --rivals: {', '.join(RUNTIMES)}; each also with -bf16 or -f16, or openvino-int8",
    )  # fmt: skip
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["model"], help="of --rivals")
    parser.add_argument("--out", type=Path, help="of --rivals; default ./work_dirs/<config name>/rivals.json")
    add_json(parser)
    add_trust(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    trust_checkpoints(args.trust_checkpoint)
    threads = args.threads or [torch.get_num_threads()]
    cfg = open_config(args.config, args.cfg_options)
    model = build_model(cfg, args.checkpoint, read_keep_ratio(args))
    if not find_dials(model):
        raise ValueError(f"{args.config} has no dynamic part: there is nothing to compare with its dense twin")
    print(f"{args.config}\nkeep ratio: {get_keep_ratio(model)}")
    if args.rivals is not None:
        return run_rivals(model, args, threads)
    count = max(args.batch_sizes)
    if args.shape:
        pictures = random_pictures(cfg, count, tuple(args.shape))
    else:
        pictures = read_pictures(cfg, count, instead=", or take random pictures with --shape H W")
    if len(pictures) < count:
        raise ValueError(f"--batch-sizes asks for {count} pictures, but the test set has {len(pictures)}")
    rows: list[dict[str, Any]] = []
    for number in threads:
        torch.set_num_threads(number)
        print(
            f"{machine()}, torch {torch.__version__}, float32, {args.rounds} rounds in turn, {args.warmup} of warm-up"
        )
        print(f"{'':<10}{'batch':>6}{'size':>11}{'dense is':>15}{'dense ms':>10} (p10 - p90){'':9}"
              f"{'routed ms':>10} (p10 - p90){'':9}{'speed-up':>9}{'by MACs':>9}")  # fmt: skip
        for size in args.batch_sizes:
            rows += _rows(model, prepare_batch(model, pictures[:size]), size, args)
    return {"rows": rows}


def _rows(model: nn.Module, batch: dict[str, Any], size: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    def progress(rounds: range) -> tqdm:
        return tqdm(rounds, desc=f"batch {size}", leave=False)

    times = time_beside_dense(model, batch, args.rounds, args.warmup, progress)
    executed = count_macs(model, lambda: predict(model, batch))
    with dense_twin(model):
        dense = count_macs(model, lambda: predict(model, batch))
    by_macs = {"backbone": dense.backbone / executed.backbone, "whole": dense.total / executed.total}
    shape = "x".join(str(n) for n in batch["inputs"].shape[-2:])
    for part, beside in times.items():
        _print_row((part, size, shape, beside.layout), beside.dense, beside.routed, by_macs[part])
    where = dict(threads=torch.get_num_threads(), batch=size, size=shape)
    return [dict(where, part=part, **asdict(beside), by_macs=by_macs[part]) for part, beside in times.items()]


def _print_row(head: tuple[str, int, str, str], dense: Latency, routed: Latency, by_macs: float) -> None:
    part, size, shape, layout = head
    row = f"{part:<10}{size:>6}{shape:>11}{layout:>15}"
    for latency in (dense, routed):
        row += f"{latency.median:10.1f} {f'({latency.p10:.1f} - {latency.p90:.1f})':<20}"
    print(f"{row}{routed.speedup:8.2f}x{by_macs:8.2f}x")
