"""Is what ``mmsparse calibrate`` leaves routed ever slower than dense? Parts, ratios, sizes, batches drawn by a seed.

    python tools/misc/calibrate_study.py --out work_dirs/calibrate_study.json

Each case is one part of a network alone, all its places at one ratio: every place is measured beside the dense part and
kept whole where it is not certainly faster, and what remains is timed again. Finished cases are kept; nothing else may
run meanwhile.
"""

import argparse
import json
import random
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import BaseModule
from torch import Tensor, nn
from tqdm import tqdm

from mmsparse.apis import get_keep_ratio
from mmsparse.cli.building import build_model
from mmsparse.cli.main import run_script
from mmsparse.cli.rivals import processor
from mmsparse.deploy.calibration import Bench, groups_of, share_of, what_pays
from mmsparse.deploy.rivals import Form
from mmsparse.files import write_whole
from mmsparse.registry import MODELS

SIDES = (64, 128, 224, 320, 480, 640, 800, 1088, 1333)
PIXELS = 1_100_000  # of a call, at most: the study shall end
SLOWER = 1.05
STRIDES, WIDTH = (4, 8, 16, 32), 256


@MODELS.register_module()
class Pooled(BaseModule):
    """Maps of a pyramid for next to nothing, so that what reads them is nearly all of the time."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(F.avg_pool2d(x, s, ceil_mode=True).repeat(1, WIDTH // 2, 1, 1)[:, :WIDTH] for s in STRIDES)


def _backbone(kind: str, **arguments: Any) -> dict[str, Any]:
    return dict(default_scope="mmpretrain", model=dict(type=f"mmsparse.{kind}", **arguments))


def _detector(**parts: Any) -> dict[str, Any]:
    head = dict(
        type="RetinaHead", num_classes=80, in_channels=WIDTH, stacked_convs=4,
        anchor_generator=dict(type="AnchorGenerator", octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0],
                              strides=list(STRIDES)),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
    )  # fmt: skip
    model = dict(
        type="RetinaNet",
        backbone=dict(type="mmsparse.Pooled"),
        neck=None,
        bbox_head={**head, **parts.get("bbox_head", {})},
    )
    if "neck" in parts:
        model["neck"] = dict(in_channels=[WIDTH] * 4, out_channels=WIDTH, num_outs=4, **parts["neck"])
        model["bbox_head"]["stacked_convs"] = 0
    return dict(default_scope="mmdet", model=dict(model, data_preprocessor=dict(type="DetDataPreprocessor")))


def _segmenter(**head: Any) -> dict[str, Any]:
    decode = dict(in_channels=[WIDTH] * 4, in_index=[0, 1, 2, 3], channels=WIDTH, num_classes=150, **head)
    model = dict(
        type="EncoderDecoder", backbone=dict(type="mmsparse.Pooled"), decode_head=decode, test_cfg=dict(mode="whole")
    )
    return dict(default_scope="mmseg", model=dict(model, data_preprocessor=dict(type="SegDataPreProcessor")))


def parts_at(ratio: float) -> dict[str, dict[str, Any]]:
    every, alike = dict(places="every_stage", keep_ratio=[ratio] * 6), dict(keep_ratio=ratio)
    return {
        "ConvNeXt-T": _backbone("DynamicConvNeXt", arch="tiny", out_indices=[0, 1, 2, 3], gap_before_final_norm=False,
                                sparsity=every),
        "Swin-T": _backbone("DynamicSwin", sparsity=every),
        "FPN": _detector(neck=dict(type="mmsparse.DynamicFPN", sparsity=alike)),
        "RetinaHead": _detector(bbox_head=dict(type="mmsparse.DynamicRetinaHead", sparsity=alike)),
        "RetinaHead, coarse": _detector(
            bbox_head=dict(type="mmsparse.DynamicRetinaHead", sparsity=dict(alike, coarse=True))
        ),
        "UPerHead": _segmenter(type="mmsparse.DynamicUPerHead", sparsity=alike),
    }  # fmt: skip


def cases_of(seed: int, count: int, runtimes: list[str]) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    cases: list[dict[str, Any]] = []
    while len(cases) < count:
        case = dict(
            part=draw.choice(list(parts_at(0.5))), ratio=draw.choice([0.15, 0.3, 0.5, 0.7]),
            size=[draw.choice(SIDES), draw.choice(SIDES)], batch=draw.choice([1, 2, 4]), runtime=draw.choice(runtimes),
        )  # fmt: skip
        if case["batch"] * case["size"][0] * case["size"][1] <= PIXELS:
            cases.append(case)
    return cases


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runtimes", nargs="+", default=["eager", "openvino", "openvino-bf16"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("work_dirs/calibrate_study.json"))


def run(args: argparse.Namespace) -> None:
    setup = dict(machine=processor(), torch=torch.__version__, threads=args.threads, rounds=args.rounds)
    page = dict(setup=setup, cases=[])
    if args.out.exists():
        page = json.loads(args.out.read_text())
        if page["setup"] != setup:
            raise ValueError(f"Argument `out`: {args.out} is of another machine or other rounds. Name another file")
    done = [{key: case[key] for key in ("part", "ratio", "size", "batch", "runtime")} for case in page["cases"]]
    for case in tqdm(cases_of(args.seed, args.count, args.runtimes), desc="cases"):
        if case not in done:
            page["cases"].append({**case, **_measured(case, args)})
            write_whole(json.dumps(page, indent=1) + "\n", args.out)
    cases = page["cases"]
    for case in cases:
        print(f"{case['part']:<20}{case['ratio']:<6}{case['size']!s:<14}{case['batch']:<3}{case['runtime']:<15}"
              f"{case['routed']:>2} of {case['places']:<3}{case['share']:.3f} of dense")  # fmt: skip
    left, slow = sum(case["routed"] > 0 for case in cases), sum(case["share"] > SLOWER for case in cases)
    print(f"{len(cases)} cases: something is routed in {left}; {slow} are slower than dense by more than 5 %")


def _measured(case: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    model: nn.Module = build_model(Config(parts_at(case["ratio"])[case["part"]])).to("cpu")
    size, own = tuple(case["size"]), get_keep_ratio(model)
    with tempfile.TemporaryDirectory() as folder:
        form, progress = Form.read(case["runtime"]), partial(tqdm, leave=False)
        bench = Bench(model, form, size, case["batch"], args.threads, args.rounds, 2, Path(folder), progress)
        groups = [bench.measure(places, [own[places[0]]], own) for places in groups_of(model, size)]
        ratios = what_pays(groups)
        routed = sum(ratio < 1.0 for ratio in ratios.values())
        share, error = share_of(*reversed(bench.time_surely(ratios))) if routed else (1.0, 0.0)
    return dict(places=len(ratios), routed=routed, share=share, error=error, macs=bench.macs(ratios) / bench.macs({}))


if __name__ == "__main__":
    sys.exit(run_script(__doc__, add_arguments, run))
