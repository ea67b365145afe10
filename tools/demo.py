"""A detector that learns where to look, in minutes on two CPU cores, beside its dense twin and a random selection."""

import argparse
import io
import logging
import sys
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import VISUALIZERS
from mmengine.runner import Runner
from tqdm import tqdm

from mmsparse.analysis.focus import object_focus
from mmsparse.analysis.report import picture_macs, time_beside_dense
from mmsparse.calls import prepare_batch
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_model, read_pictures
from mmsparse.cli.launch import prepare_work_dir
from mmsparse.cli.main import run_script
from mmsparse.datasets.scenes_io import ScenesArgs, write_scenes
from mmsparse.visualization.panels import draw_predictions

ROOT = Path(__file__).resolve().parents[1]
DENSE = "configs/demo/atss_convnext-mini_scenes.py"
ROUTED = "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py"


class ProgressBar(Hook):
    """One bar a training, with the loss."""

    def __init__(self, title: str) -> None:
        self.title = title

    def before_train(self, runner: Runner) -> None:
        self.bar = tqdm(total=runner.max_iters, initial=runner.iter, desc=self.title, unit="it", smoothing=0.05)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.bar.update()
        if runner.iter % 10 == 0 and outputs:
            self.bar.set_postfix(loss=f"{outputs['loss'].item():.3f}", refresh=False)

    def after_train(self, runner: Runner) -> None:
        self.bar.close()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="work_dirs/demo", help="everything is written here")
    parser.add_argument("--images", type=int, default=2000, help="training pictures to generate")
    parser.add_argument("--warm-iters", type=int, default=600, help="dense start that all variants share")
    parser.add_argument("--iters", type=int, default=600, help="iterations of each variant after it")
    parser.add_argument("--pictures", type=int, default=6, help="held-out pictures to draw")


def run(args: argparse.Namespace) -> None:
    warnings.filterwarnings("ignore")
    out = Path(args.out)
    started = time.perf_counter()
    base = open_config(str(ROOT / ROUTED))
    prepare_work_dir(base, args.out, ROUTED)
    print(f"1/4 scenes: {args.images} generated pictures of 160x160 in {out / 'scenes'}")
    write_scenes(out / "scenes", ScenesArgs(images=args.images, size=160, seed=0, val=max(20, args.images * 3 // 20)))

    print(f"2/4 training on {torch.get_num_threads()} threads: a shared dense start, then three variants of it")
    warm = train("dense start", DENSE, out / "warm", args, None)
    checkpoints = {
        "routed": train("routed", ROUTED, out / "routed", args, warm),
        "random": train("random selection", ROUTED, out / "random", args, warm, random=True),
        "dense": train("dense twin", DENSE, out / "dense", args, warm),
    }

    print("3/4 evaluation on held-out scenes")
    scores = {"untrained": evaluate(configure(DENSE, out / "untrained", args), None)}
    for name, checkpoint in checkpoints.items():
        config = configure(DENSE if name == "dense" else ROUTED, out / name, args, random=name == "random")
        scores[name] = evaluate(config, checkpoint)

    print("4/4 arithmetic, latency, pictures")
    cfg = configure(ROUTED, out / "routed", args)
    with quiet():
        model = build_model(cfg, str(checkpoints["routed"]))
        control = build_model(configure(ROUTED, out / "random", args, random=True), str(checkpoints["random"]))
        pictures = read_pictures(cfg, 100)
        drawn = draw(model, cfg, pictures, out / "pictures", args.pictures)
    report(model, control, pictures, scores)
    print(f"\npictures:    {out / 'pictures'}/  ({len(drawn)} files: input, keep map, detections)")
    print(f"checkpoints: {checkpoints['routed']} and its dense twin {checkpoints['dense']}")
    print(
        f"all of it:   {out}/  in {(time.perf_counter() - started) / 60:.1f} min (trained parts are reused next time)"
    )


def configure(path: str, work_dir: Path, args: argparse.Namespace, random: bool = False) -> Config:
    """A demo config on the generated scenes, quiet, with its files below ``--out``."""
    cfg = open_config(str(ROOT / path))
    cfg.work_dir, cfg.log_level = str(work_dir), "ERROR"
    data = f"{args.out}/scenes/"
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = data
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = f"{data}annotations/val.json"
    if random:
        cfg.model.backbone.sparsity.scorer = dict(type="RandomScorer")
    return cfg


def train(
    title: str, path: str, work_dir: Path, args: argparse.Namespace, start: Path | None, random: bool = False
) -> Path:
    """Train one variant, or go on with it, or reuse it; returns its checkpoint."""
    iters = args.iters if start else args.warm_iters
    done = work_dir / f"iter_{iters}.pth"
    if done.is_file():
        print(f"{title}: found {done}, not trained again")
        return done
    cfg = configure(path, work_dir, args, random)
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=iters, val_interval=iters + 1)
    ramp = min(50, iters // 4)
    cfg.param_scheduler = [dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=ramp)]
    if start:
        cfg.param_scheduler.append(dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=False, begin=ramp, end=iters))
    cfg.default_hooks.checkpoint.update(interval=100, max_keep_ckpts=1)
    cfg.resume = (work_dir / "last_checkpoint").is_file()
    cfg.load_from = str(start) if start and not cfg.resume else None  # else mmengine would resume from the start
    with quiet():
        runner = Runner.from_cfg(cfg)
        runner.register_hook(ProgressBar(f"  {title}"), priority="VERY_LOW")
        runner.train()
    return done


def evaluate(cfg: Config, checkpoint: Path | None) -> dict[str, float]:
    """bbox mAP and AP50; a network that finds nothing at all has none."""
    with quiet():
        runner = Runner.from_cfg(cfg)
        if checkpoint:
            runner.load_checkpoint(str(checkpoint), map_location="cpu")
        else:
            runner.model.init_weights()
        metrics = runner.test()
    return {name: metrics.get(f"coco/{key}", 0.0) for name, key in (("mAP", "bbox_mAP"), ("AP50", "bbox_mAP_50"))}


def quiet() -> redirect_stdout:
    """pycocotools and checkpoint loading print; the console is for the bars (on stderr) and the table."""
    logging.getLogger("mmengine").setLevel(logging.ERROR)
    return redirect_stdout(io.StringIO())


def draw(model: torch.nn.Module, cfg: Config, pictures: list[dict], folder: Path, count: int) -> list[Path]:
    """Held-out pictures with several objects: input, keep map and detections side by side."""
    visualizer = VISUALIZERS.build(dict(type="mmdet.DetLocalVisualizer", name="demo"))
    visualizer.dataset_meta = dict(cfg.test_dataloader.dataset.metainfo)
    chosen = [p for p in pictures if len(p["data_samples"].gt_instances) > 1][:count]
    files = [folder / f"{number:02d}.png" for number in range(len(chosen))]
    for picture, file in zip(chosen, files, strict=True):
        draw_predictions(model, visualizer, picture, file, score_thr=0.2)  # a short training is not very sure
    return files


def report(model: torch.nn.Module, control: torch.nn.Module, pictures: list[dict], scores: dict[str, dict]) -> None:
    """Two tables: one row a variant, and latency beside the dense twin."""
    routed, random = picture_macs(model, pictures[:20]), picture_macs(control, pictures[:20])
    macs = {"routed": (routed, "executed"), "random": (random, "executed"), "dense": (routed, "dense")}
    focus = {"routed": object_focus(model, pictures), "random": object_focus(control, pictures)}
    print(f"\n{'':<12}{'bbox mAP':>9}{'AP50':>7}  {'GMACs backbone/whole':>21}  {'slow path inside/outside boxes':>31}")
    for name, metrics in scores.items():
        row = f"{name:<12}{metrics['mAP']:9.3f}{metrics['AP50']:7.3f}"
        cells = ["-", "-"]
        if name in macs:
            count, kind = macs[name]
            cells[0] = " / ".join(f"{count.mean(kind, part) / 1e9:.3f}" for part in ("backbone", "total"))
        if name in focus:
            cells[1] = f"{focus[name]['inside']:.2f} / {focus[name]['outside']:.2f}"
        print(f"{row}  {cells[0]:>21}  {cells[1]:>31}")
    print("each row is one short training: differences of a few thousandths of mAP are noise")
    print(f"\nlatency, dense -> routed, timed in turn on {torch.get_num_threads()} threads, median of 40")
    for size in (1, 8):
        times = time_beside_dense(model, prepare_batch(model, pictures[:size]), rounds=40, warmup=5)
        cells = [
            f"{part} {beside.dense.median:.1f} -> {beside.routed.median:.1f} ms ({beside.routed.speedup:.2f}x)"
            for part, beside in times.items()
        ]
        print(f"batch {size}:  {cells[0]:<36}  {cells[1]}")


if __name__ == "__main__":
    sys.exit(run_script(__doc__, add_arguments, run))
