"""Find the keep ratios that lose least at a wanted time, on this machine; whole where routing does not pay.

Every place is measured at several ratios, the others as configured: what that costs beside the dense network, timed in
turn in one runtime, and what it loses on pictures of the validation set. Without a target each place keeps the config's
ratio, or is kept whole where that is not faster. The folder --out gets the measurements, from which a run that was
interrupted and one for another target go on, and a folder for the target: a config with the ratios, the exported
network, figures and a plot.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn
from tqdm import tqdm

from mmsparse.apis import find_dials, get_keep_ratio
from mmsparse.cli.arguments import add_config_options, positive
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_model, calibration_pictures, meta_of
from mmsparse.cli.calibrating import (
    MEASURED,
    Evaluator,
    Page,
    better,
    part_configs,
    reach,
    say_groups,
    say_reached,
    take_validation_set,
    taken,
    write_json,
    write_ratios,
)
from mmsparse.cli.launch import check_writable, prepare_work_dir
from mmsparse.cli.numbers import add_json
from mmsparse.cli.preflight import check_testing
from mmsparse.cli.rivals import processor
from mmsparse.deploy import FORMATS, Wish, export
from mmsparse.deploy.calibration import Bench, OutOfReachError, groups_of
from mmsparse.deploy.formats import INT8
from mmsparse.deploy.rivals import RUNTIMES, Form
from mmsparse.files import write_whole
from mmsparse.trust import add_trust, trust_checkpoints
from mmsparse.visualization.calibration import draw_calibration

TRAINED = 0.9  # of the dense metric: what reaches it at its own ratios was trained at them
RATIOS = (0.15, 0.3, 0.5, 0.75)
TARGETS = ("latency", "ms", "macs")
PICTURES = 32  # that integers are fitted to


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config")
    parser.add_argument("checkpoint", nargs="?", help="weights; without them arithmetic stands for the metric")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--latency", type=float, metavar="SHARE", help="of the dense network's time, such as 0.5")
    target.add_argument("--ms", type=float, help="milliseconds of a call")
    target.add_argument("--macs", type=float, metavar="SHARE", help="of the dense network's arithmetic")
    parser.add_argument(
        "--shape", type=positive, nargs=2, required=True, metavar=("H", "W"), help="of a picture, padded"
    )
    parser.add_argument(
        "--runtime", default="openvino", help=f"{', '.join(RUNTIMES)}; each also with -bf16 or -f16, or openvino-int8"
    )
    parser.add_argument("--batch", type=int, default=1, help="pictures of a call")
    parser.add_argument("--threads", type=int, help="of the CPU; default: all of torch's")
    parser.add_argument("--ratios", type=float, nargs="+", default=list(RATIOS), help="that each place is measured at")
    parser.add_argument("--num-images", type=int, default=100, help="pictures of the validation set")
    parser.add_argument("--no-metric", action="store_true", help="let arithmetic stand for the metric")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds; each times everything once")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--out", type=Path, help="the folder; default ./work_dirs/<config name>/calibrated")
    add_json(parser)
    add_trust(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    trust_checkpoints(args.trust_checkpoint)
    kind = _kind(args)
    form, threads = Form.read(args.runtime), args.threads or torch.get_num_threads()
    cfg = open_config(args.config, args.cfg_options)
    out = args.out or Path("work_dirs") / Path(args.config).stem / "calibrated"
    check_writable(out, "out")
    model = build_model(cfg, args.checkpoint).to("cpu")
    if not find_dials(model):
        raise ValueError(f"{args.config} has no dynamic part: there is nothing to calibrate")
    part_configs(cfg, model)
    own, size = get_keep_ratio(model), tuple(args.shape)
    page = Page(out / MEASURED, dict(_setup(args, kind), threads=threads, as_configured=own))
    with tempfile.TemporaryDirectory() as folder:
        evaluate = _evaluator(args, Path(folder)) if args.checkpoint and not args.no_metric else None
        bench = Bench(model, form, size, args.batch, threads, args.rounds, args.warmup, Path(folder))
        if not page.dense:
            (dense,), metric = bench.time(), evaluate and evaluate({})
            trained = not evaluate or evaluate(own) >= TRAINED * metric
            figures = dict(ms=dense.ms, macs=dense.macs, metric=metric, name=evaluate and evaluate.name)
            page.begin(figures, own if trained else {})
        with tqdm(groups_of(model, size), desc="measuring", leave=False) as bar:
            for places in bar:
                bar.set_postfix_str(places[0])
                if places not in [group.places for group in page.groups]:
                    ratios = args.ratios if kind else [own[places[0]]]
                    page.add(bench.measure(places, ratios, page.base, kind != "macs", evaluate if kind else None))
        limit = _limit(args, page.dense["ms"])
        try:
            tried = list(reach(bench, page.groups, kind, limit, page.dense["metric"]))
        except OutOfReachError as error:
            raise ValueError(_unreachable(args, error, page.dense["ms"])) from error
        chosen = min(tried, key=lambda each: abs(each["reached"] - limit))
        configured = taken(bench, own, kind)
        if evaluate:
            chosen["metric"], configured["metric"] = evaluate(chosen["ratios"]), evaluate(own)
    if not page.base:
        print(f"At its own ratios it has lost more than {1.0 - TRAINED:.0%}: places were measured with all else whole.")
    print(say_groups(page.groups, chosen["ratios"], page.dense["name"]))
    print(say_reached(page.dense, chosen, configured))
    if better(configured, chosen):
        chosen = dict(configured, predicted_loss=None)
    out = out / _name(args)
    found = dict(dense=page.dense, chosen=chosen, tried=tried, as_configured=configured)
    write_json(out / "calibration.json", found)
    draw_calibration(out / "calibration.png", page.groups, kind or "time", page.dense, chosen)
    write_ratios(cfg, model, chosen["ratios"])
    write_whole(cfg.pretty_text, out / f"{Path(args.config).stem}_calibrated.py")
    if form.runtime in FORMATS:
        _export(cfg, model, args, form, out / form.runtime)
    print(out)
    return found


def _kind(args: argparse.Namespace) -> str | None:
    """What the target is a share of, "time" or "macs"; None if there is no target."""
    for name, most in (("latency", 1.0), ("macs", 1.0), ("ms", float("inf"))):
        value = getattr(args, name)
        if value is not None and not 0.0 < value < most:
            raise ValueError(f"Expected argument `--{name}` to be above 0 and below {most:g}, but got {value:g}")
    for ratio in args.ratios:
        if not 0.0 < ratio < 1.0:  # everything kept is measured anyway
            raise ValueError(f"Expected argument `--ratios` to be above 0 and below 1, but got {ratio:g}")
    for name in ("batch", "threads", "num_images", "rounds"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise ValueError(f"Expected argument `--{name.replace('_', '-')}` to be positive, but got {value}")
    if all(getattr(args, name) is None for name in TARGETS):
        return None
    return "time" if args.macs is None else "macs"


def _limit(args: argparse.Namespace, dense_ms: float) -> float:
    """The target as a share of the dense network's cost."""
    if args.ms is not None:
        return args.ms / dense_ms
    return args.latency or args.macs or 0.0


def _unreachable(args: argparse.Namespace, error: OutOfReachError, dense_ms: float) -> str:
    name = next(name for name in TARGETS if getattr(args, name) is not None)
    cost = "arithmetic" if name == "macs" else f"{dense_ms:.1f} ms"
    return (
        f"Argument `--{name}`={getattr(args, name):g} cannot be reached: keep ratios from {min(args.ratios):g} "
        f"(--ratios) leave {error} of the dense network's {cost}. Route more of the network to get lower"
    )


def _name(args: argparse.Namespace) -> str:
    """Of the target's folder."""
    return next((f"{n}-{getattr(args, n):g}" for n in TARGETS if getattr(args, n) is not None), "as-configured")


def _setup(args: argparse.Namespace, kind: str | None) -> dict[str, Any]:
    names = ("shape", "runtime", "batch", "num_images", "no_metric", "rounds")
    return dict(
        ratios=args.ratios if kind else None,
        timed=kind != "macs",
        config=Path(args.config).name,
        options=args.cfg_options or {},
        checkpoint=args.checkpoint and Path(args.checkpoint).name,
        **{name: getattr(args, name) for name in names},
        machine=processor(),
        torch=torch.__version__,
    )


def _evaluator(args: argparse.Namespace, folder: Path) -> Evaluator:
    cfg = open_config(args.config, args.cfg_options)
    prepare_work_dir(cfg, str(folder), args.config)
    cfg.load_from, cfg.resume = None, False
    take_validation_set(cfg, args.num_images, folder)
    return Evaluator(cfg, check_testing(cfg, args.checkpoint, None))


def _export(cfg: Config, model: nn.Module, args: argparse.Namespace, form: Form, folder: Path) -> None:
    integers = form.precision == INT8
    wish = Wish(
        form.runtime,
        [tuple(args.shape)],
        batch=args.batch,
        precision=form.precision,
        pictures=calibration_pictures(cfg, model, PICTURES) if integers else [],
    )
    names = {"config": Path(args.config).name, "checkpoint": args.checkpoint and Path(args.checkpoint).name}
    export(model, wish, folder, meta_of(cfg).get("classes"), names, tell=print)
