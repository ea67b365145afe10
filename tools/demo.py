"""Detectors that look where it matters, on circuit boards: a short training, and published networks side by side."""

import argparse
import copy
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torchvision.ops import box_iou
from tqdm import tqdm

from mmsparse import published, sparsify
from mmsparse.analysis.focus import object_focus
from mmsparse.apis import record_selections
from mmsparse.calls import predict, prepare_batch
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_model, read_pictures
from mmsparse.cli.launch import build_runner, check_writable, choose_start, quiet
from mmsparse.cli.main import run_script
from mmsparse.datasets.boards_io import BoardsArgs
from mmsparse.datasets.writer import write_dataset
from mmsparse.deploy.rivals import DENSE, ROUTED, SMALLER, Form, Row, networks_of, time_rivals
from mmsparse.visualization.keep_maps import slow_share
from mmsparse.visualization.panels import pixels_of
from mmsparse.visualization.spotlight import Shown, draw_spotlight

WIDE = "atss_convnext-pico-w128_boards"
HALF = "atss_convnext-pico-w64_boards"
NARROWER = "half as wide"
PUBLISHED = "atss_dynamic-convnext-pico-w128_whole-m40_in-place_boards"
SIZE = (1024, 1024)
RATIOS = dict(backbone=[0.25, 0.2], head=0.22)
SCORER = dict(type="PeakScorer", deep=2)
METRIC = "coco/bbox_mAP"
FORMS = (Form("openvino"), Form("eager"))
LOOKED_AT = 8  # boards
SURE = 0.4  # the score from which on a box is drawn
ALIKE = 0.5  # the IoU from which on it is that defect


class Bar(Hook):
    """One progress bar of a training or a test."""

    def __init__(self, title: str) -> None:
        self.title = title

    def before_train(self, runner: Runner) -> None:
        self.bar = tqdm(total=runner.max_iters, initial=runner.iter, desc=self.title, unit="it", smoothing=0.05)

    def before_test(self, runner: Runner) -> None:
        self.bar = tqdm(total=len(runner.test_dataloader), desc=self.title, unit="batch", leave=False)

    def _after_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None, mode: str = ""):
        self.bar.update()

    def after_train(self, runner: Runner) -> None:
        self.bar.close()

    def after_test(self, runner: Runner) -> None:
        self.bar.close()


@dataclass(frozen=True)
class Line:
    """A line of the table: a network, and what it is evaluated on."""

    name: str
    config: Config
    checkpoint: str
    size: tuple[int, int] = SIZE
    study: str = ""  # its run in docs/studies/published.json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="work_dirs/demo", help="everything is written here")
    parser.add_argument("--boards", type=int, default=24, help="held-out boards to evaluate on")
    parser.add_argument("--iters", type=int, default=80, help="of the short training")
    parser.add_argument("--rounds", type=int, default=7, help="of timing")


def run(args: argparse.Namespace) -> None:
    started, out = time.perf_counter(), Path(args.out)
    check_writable(out, "out")
    print(f"1/4 boards: {args.boards} held-out and 120 to train on, of {SIZE[0]}x{SIZE[1]}, each with some six defects")
    write_dataset(out / "boards", BoardsArgs(images=120, size=SIZE[0], seed=0, val=args.boards))
    dense, routed, half = (configured(name, out) for name in (WIDE, PUBLISHED, HALF))

    print(f"2/4 the dense detector becomes a routed one by sparsify(), and trains on for {args.iters} iterations")
    trained = train(live(dense), out / "trained", args.iters)

    print(f"3/4 the same networks on the {args.boards} boards, then timed in turn, {torch.get_num_threads()} threads")
    with quiet():
        model, narrower = (
            build_model(copy.deepcopy(cfg), weights(name)) for cfg, name in ((routed, PUBLISHED), (half, HALF))
        )
    networks = networks_of(model, SIZE, {NARROWER: narrower})
    sizes = {network.name: network.shape for network in networks}
    lines = [
        Line(DENSE, dense, weights(WIDE), study="dense"),
        Line(ROUTED, routed, weights(PUBLISHED), study="routed"),
        Line(NARROWER, half, weights(HALF), study="narrow"),
        Line(SMALLER, dense, weights(WIDE), sizes[SMALLER], study="smaller"),
        Line("routed just now", live(dense), str(trained)),
        Line("... without training", live(dense), weights(WIDE)),
    ]
    found = [evaluate(network) for network in lines]
    rows = time_rivals(
        networks, FORMS, "model", 1, torch.get_num_threads(), args.rounds, 2, out / "exported",
        partial(tqdm, leave=False),
    )  # fmt: skip

    print("4/4 where it looked")
    ms = {(row.network, row.form): row.ms for row in rows}
    wide = build_model(copy.deepcopy(dense), weights(WIDE))
    with quiet():
        pictures = read_pictures(routed, args.boards)
        draw(model, wide, pictures, out / "looked.png", (ms[DENSE, "openvino f32"], ms[ROUTED, "openvino f32"]))
        focus = object_focus(model, pictures[:LOOKED_AT])
    inside, outside = (f"{focus[where]:.0%}" for where in ("inside", "outside"))
    print(f"{inside} of what lies in the defects' boxes took the slow path, {outside} of all else")
    print(f"\n{report(lines, found, rows, args.boards)}\n")
    print(f"picture:     {out / 'looked.png'}")
    print(f"exported:    {out / 'exported'}/")
    print(f"all of it in {(time.perf_counter() - started) / 60:.1f} minutes; a finished training is not made again")


def weights(name: str) -> str:
    return published(name)[1]


def configured(name: str, out: Path) -> Config:
    """A published config on the demo's boards."""
    cfg = open_config(published(name)[0])
    cfg.work_dir, cfg.log_level, cfg.load_from = str(out / name), "ERROR", None
    data = f"{out}/boards/"
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = data
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = f"{data}annotations/val.json"
    return cfg


def live(dense: Config) -> Config:
    """The dense config, routed; everything kept learns in the same step, and teaches."""
    places = dict(places=[(1, 0), (2, 0)], scorer=SCORER)
    cfg = sparsify(dense, RATIOS, sparsity=places, head=dict(coarse=True), hook=dict(score_weight=1.0))
    cfg.custom_hooks.append(dict(type="mmsparse.InPlaceHook"))
    return cfg


def train(cfg: Config, folder: Path, iters: int) -> Path:
    """From the published dense weights; or go on with it, or use what is done."""
    done = folder / f"iter_{iters}.pth"
    if done.is_file():
        print(f"    found {done}, not trained again")
        return done
    cfg.work_dir = str(folder)
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=iters, val_interval=iters + 1)
    rise = max(1, iters // 10)
    warm = dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=rise)
    cool = dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=rise, end=iters)
    cfg.param_scheduler = [warm, cool]
    cfg.default_hooks.checkpoint.update(interval=25, max_keep_ckpts=1)
    choose_start(cfg, "auto", weights(WIDE))
    with quiet():
        runner = build_runner(cfg)
        runner.register_hook(Bar("training"), priority="VERY_LOW")
        runner.train()
    return done


def evaluate(network: Line) -> float:
    """The bbox mAP; a network that finds nothing at all has none."""
    cfg = copy.deepcopy(network.config)
    cfg.test_dataloader.dataset.pipeline[1].scale = network.size[::-1]
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    with quiet():
        runner = Runner.from_cfg(cfg)
        runner.load_checkpoint(network.checkpoint, map_location="cpu")
        runner.register_hook(Bar(network.name), priority="VERY_LOW")
        return max(0.0, runner.test().get(METRIC, 0.0))


def draw(
    routed: torch.nn.Module, dense: torch.nn.Module, pictures: list[dict[str, Any]], path: Path, ms: tuple[float, float]
) -> None:
    """The board with the most defects."""
    classes = routed.cfg.test_dataloader.dataset.metainfo.classes
    picture = max(pictures, key=lambda found: len(found["data_samples"].gt_instances))
    titles = f"dense: works everywhere, {ms[0]:.0f} ms", f"routed: works where it is bright, {ms[1]:.0f} ms"
    real = picture["data_samples"].gt_instances
    shown = []
    with record_selections(routed) as taken:
        for model, title in zip((dense, routed), titles, strict=True):
            (sample,) = predict(model, prepare_batch(model, [picture]))
            found = sample.pred_instances[sample.pred_instances.scores > SURE]
            same = (box_iou(found.bboxes, real.bboxes.tensor) > ALIKE) & (found.labels[:, None] == real.labels)
            missed, alarms = real.bboxes.tensor[~same.any(dim=0)], int((~same.any(dim=1)).sum())
            found_of = f"{len(real) - len(missed)} of {len(real)} defects found"
            title += f"\n{found_of}, {alarms} false alarm" + "s" * (alarms != 1)
            names = [classes[label] for label in found.labels]
            shown.append(Shown(title, found.bboxes.numpy(), names, missed.numpy()))
    draw_spotlight(path, pixels_of(picture), [slow_share([one], SIZE) for one in taken], *shown)


def report(lines: list[Line], found: list[float], rows: list[Row], boards: int) -> str:
    """Accuracy, arithmetic and time of each network; beside it the study's accuracy on all 150 held-out boards."""
    study = json.loads((Path(__file__).parents[1] / "docs/studies/published.json").read_text())
    learned = study["smaller-on"]["own"][METRIC]
    timed = {(row.network, row.form): row for row in rows}
    heads = [f"mAP, {boards} boards", "mAP, all 150", "GMACs", *(f"{form}, ms" for form in FORMS)]
    told = [f"{'':<22}" + "".join(f"{head:>20}" for head in heads)]
    for line, metric in zip(lines, found, strict=True):
        cells = [f"{metric:.3f}", f"{study[line.study]['own'][METRIC]:.3f}" if line.study else "-"]
        row = timed.get((line.name, str(FORMS[0])))
        cells.append(f"{row.macs / 1e9:.1f}" if row else "-")
        for form in map(str, FORMS):
            row, dense = timed.get((line.name, form)), timed[DENSE, form]
            cells.append(f"{row.ms:.0f} ({row.speedup(dense):.2f}x)" if row and row.times and dense.times else "-")
        told.append(f"{line.name:<22}" + "".join(f"{cell:>20}" for cell in cells))
    told.append(f"Trained on at its size, the network on the smaller picture has {learned:.3f} on all 150.")
    return "\n".join(told)


if __name__ == "__main__":
    sys.exit(run_script(__doc__, add_arguments, run))
