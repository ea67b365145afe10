"""Run a study: trainings that stand on each other, each evaluated at several budgets, and one file of results.

A study is a config with ``runs``, and ``pairs`` whose difference is wanted (see configs/study). Finished runs are
skipped and interrupted ones resumed, so the command can be given again until all are done; given twice at the same
time, the two share the work. With ``--time`` what is done is timed in turn, and drawn: metric against milliseconds.
"""

import argparse
import copy
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tqdm import tqdm

from mmsparse.analysis import count_macs, fit_keep_ratio
from mmsparse.analysis.intervals import PictureAP, difference
from mmsparse.apis import dense_twin, find_deciders, find_dials, get_keep_ratio
from mmsparse.calls import predict, prepare_batch
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_model, read_pictures
from mmsparse.cli.launch import build_runner, choose_start, prepare_work_dir, quiet
from mmsparse.cli.main import run_script
from mmsparse.cli.preflight import check_training
from mmsparse.deploy.rivals import Form, Network, Results, Row, time_rivals
from mmsparse.engine import latest_checkpoint
from mmsparse.files import write_whole
from mmsparse.trust import add_trust, trust_checkpoints
from mmsparse.visualization.front import Point, draw_front, front

METRICS = ("coco/bbox_mAP", "coco/bbox_mAP_50", "coco/bbox_AR@100", "mIoU", "mAcc")
OWN = "own"  # the budgets of the config
WHOLE = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", help="a config with `runs`")
    parser.add_argument("--only", nargs="+", help="names of runs; what they start from must be done")
    parser.add_argument(
        "--time", nargs="+", type=Form.read, metavar="FORM", default=(),
        help="then time what is done, as benchmark --forms does, and draw the metric against it; nothing else may run",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=15, help="of --time")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of --time")
    parser.add_argument("--out-dir", help="trainings and results.json; default ./work_dirs/study_<name of the study>")
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    trust_checkpoints(args.trust_checkpoint)
    study = Config.fromfile(args.study)
    out = Path(args.out_dir or f"work_dirs/study_{Path(args.study).stem}")
    runs = {run.name: run for run in study.runs}
    unknown = sorted({*(args.only or ()), *(name for run in study.runs for name in needed(run))} - runs.keys())
    if unknown:
        raise ValueError(f"{args.study} has no runs {unknown}; it has {list(runs)}")
    while (name := next(pending(runs, args.only or list(runs), out), None)) is not None:
        with claimed(out / name) as mine:
            if mine and not result_of(out, name):
                print(f"{name} ...", flush=True)
                found = carry_out(runs[name], Path(args.study).parent, out)
                write_whole(json.dumps(found, indent=1), out / name / "result.json")
    results = {name: found for name in runs if (found := result_of(out, name))}
    write_whole(json.dumps(results, indent=1), out / "results.json")
    print(table(results))
    for one, other in study.get("pairs", []):
        print(compared(one, other, runs, Path(args.study).parent, out))
    if args.time and results:
        timed(results, runs, Path(args.study).parent, out, args)


def pending(runs: dict[str, Any], names: list[str], out: Path) -> Iterator[str]:
    """What can be done now: not done, nobody at it, what it needs done."""
    for name in names:
        if (
            not result_of(out, name)
            and not is_claimed(out / name)
            and all(result_of(out, n) for n in needed(runs[name]))
        ):
            yield name


def needed(run: Any) -> list[str]:
    """The runs whose weights one begins with: all of the network (``start``), or its backbone."""
    return [run[key] for key in ("start", "backbone") if key in run]


def result_of(out: Path, name: str) -> dict[str, Any] | None:
    file = out / name / "result.json"
    return json.loads(file.read_text()) if file.is_file() else None


def is_claimed(folder: Path) -> bool:
    """Whether a living process is at a run."""
    try:
        os.kill(int((folder / "claim").read_text()), 0)
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Inside a with-block a run is this process's, unless another one was quicker."""
    folder.mkdir(parents=True, exist_ok=True)
    if not is_claimed(folder):
        (folder / "claim").unlink(missing_ok=True)
    try:
        with (folder / "claim").open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        yield False
        return
    try:
        yield True
    finally:
        (folder / "claim").unlink()


def carry_out(run: Any, folder: Path, out: Path) -> dict[str, Any]:
    """Train, unless a run only evaluates what it starts from (``train=False``), and evaluate at each budget."""
    cfg = config_of(run, folder)
    cfg.randomness = dict(seed=run.get("seed", 0))
    if "start" in run:
        cfg.load_from = weights_of(run.start, out)
        cfg.model.backbone.init_cfg = None  # all weights are there
    if "backbone" in run:
        weights = dict(type="Pretrained", checkpoint=weights_of(run.backbone, out), prefix="backbone.")
        cfg.model.backbone.init_cfg = weights
    if "iterations" in run:
        cfg.train_cfg.max_iters = cfg.train_cfg.val_interval = run.iterations
        for scheduler in cfg.param_scheduler[-1:]:
            scheduler.end = run.iterations
    prepare_work_dir(cfg, str(out / run.name), str(folder / run.config))
    cfg.visualizer.name = run.name  # of one name there is one a process, which would write all to the first folder
    choose_start(cfg, "auto", None)
    built = check_training(cfg)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    predictions = out / run.name / "predictions.pkl"
    if cfg.default_scope == "mmdet":  # for intervals over pictures
        cfg.test_evaluator = [cfg.test_evaluator, dict(type="DumpDetResults", out_file_path=str(predictions))]
    found = {}
    with quiet():
        runner = build_runner(cfg, built)
        if run.get("train", True):
            runner.train()
        else:
            runner.load_checkpoint(cfg.load_from)
        for at in run.get("at", [OWN]):
            found[str(at)] = evaluate(runner, cfg, at)
            if predictions.is_file():
                predictions.rename(predictions.with_stem(f"predictions_{at}"))
    return found


def config_of(run: Any, folder: Path) -> Config:
    """With the run's own options, which stay as they are: merging takes marks such as `_delete_` away."""
    return open_config(str(folder / run.config), copy.deepcopy(dict(run.get("options", {}))))


def weights_of(name: str, out: Path) -> str:
    """The last checkpoint of a run."""
    return latest_checkpoint(out / name)


def evaluate(runner: Runner, cfg: Config, at: float | str) -> dict[str, Any]:
    """Metrics, arithmetic and keep ratios at a share of the dense arithmetic."""
    model = runner.model.eval()
    batch = prepare_batch(model, read_pictures(cfg, 1))
    shape = list(batch["inputs"].shape[-2:])

    def call() -> Any:
        return predict(model, batch)

    if find_deciders(model) and at not in (OWN, WHOLE):
        fit_keep_ratio(model, at, call)
    if at == WHOLE:
        with dense_twin(model):
            return measured(runner, call, shape)
    return measured(runner, call, shape)


def measured(runner: Runner, call: Any, shape: list[int]) -> dict[str, Any]:
    macs, metrics = count_macs(runner.model, call).total, runner.test()
    ratios = {name: round(ratio, 4) for name, ratio in get_keep_ratio(runner.model).items()}
    found = {"macs": macs, "shape": shape, "keep_ratio": ratios}
    return {**found, **{k: float(v) for k, v in metrics.items() if k in METRICS}}


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """One row a run and budget."""
    names = [name for name in METRICS if any(name in at for found in results.values() for at in found.values())]
    lines = [f"{'run':<28}{'at':>6}{'GMACs':>9}" + "".join(f"{name:>18}" for name in names)]
    for run_name, found in results.items():
        for at, numbers in found.items():
            values = "".join(f"{numbers.get(name, float('nan')):18.4f}" for name in names)
            lines.append(f"{run_name:<28}{at:>6}{numbers['macs'] / 1e9:9.3f}{values}")
    return "\n".join(lines)


def timed(
    results: dict[str, dict[str, dict[str, Any]]], runs: dict[str, Any], folder: Path, out: Path, args: Any
) -> None:
    """Everything that is done, in turn, into times.json; and for each form a picture."""
    networks = []
    for name, found in results.items():
        cfg = config_of(runs[name], folder)
        trained = name if runs[name].get("train", True) else runs[name].start
        model = build_model(cfg, weights_of(trained, out))
        for at, numbers in found.items():
            networks.append(Network(f"{name}@{at}", copy.deepcopy(model), tuple(numbers["shape"])))
            for dial in find_dials(networks[-1].model):
                dial.keep_ratio = numbers["keep_ratio"][dial.name]
    with tempfile.TemporaryDirectory() as exported:
        rows = time_rivals(
            networks, args.time, "model", 1, args.threads, args.rounds, 3, Path(exported), partial(tqdm, leave=False)
        )
    Results(dict(study=args.study, rounds=args.rounds, threads=args.threads), rows).write(out / "times.json")
    print("\n" + times_table(rows))
    metric = next(name for name in METRICS if any(name in at for found in results.values() for at in found.values()))
    for form in args.time:
        ms = {row.network: row.ms for row in rows if row.form == str(form) and row.times}
        points = [
            Point(
                runs[name].get("series", name),
                name if at == OWN else f"{name}@{at}",
                ms[f"{name}@{at}"],
                numbers[metric],
            )
            for name, found in results.items()
            for at, numbers in found.items()
            if f"{name}@{at}" in ms
        ]
        path = out / f"front_{form.runtime}_{form.precision}.png"
        draw_front(path, points, metric, f"{form}, {args.threads} threads, a picture")
        print(f"On the front of {form}: {', '.join(point.name for point in front(points))} ({path})")


def times_table(rows: list[Row]) -> str:
    """A line a network, a column a form: median milliseconds."""
    forms = list(dict.fromkeys(row.form for row in rows))
    lines = [f"{'ms':<34}{'size':>12}{'GMACs':>9}" + "".join(f"{form:>18}" for form in forms)]
    for name in dict.fromkeys(row.network for row in rows):
        cells = [row for row in rows if row.network == name]
        values = "".join(f"{row.ms:18.1f}" if row.times else f"{'no':>18}" for row in cells)
        lines.append(f"{name:<34}{cells[0].shape:>12}{cells[0].macs / 1e9:9.3f}{values}")
    return "\n".join(lines)


def compared(one: str, other: str, runs: dict[str, Any], folder: Path, out: Path) -> str:
    """The difference of two mAPs, ``run@budget`` each, and its interval over pictures that are drawn again."""
    found = []
    for name, _, at in (text.partition("@") for text in (one, other)):
        file = out / name / f"predictions_{at or OWN}.pkl"
        if not file.is_file():
            return f"{one} - {other}: not there yet"
        cfg = config_of(runs[name], folder)
        found.append(PictureAP(cfg.val_evaluator.ann_file, file, cfg.metainfo.classes))
    interval = difference(*found)
    return f"{one} - {other}: {interval.value:+.4f}, 95 % in {interval.low:+.4f} to {interval.high:+.4f}"


if __name__ == "__main__":
    sys.exit(run_script(__doc__, add_arguments, run))
