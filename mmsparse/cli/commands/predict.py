"""Run pictures through a network, in PyTorch or exported, and write what it finds.

Results go to preds/ in the folder of --out: boxes as JSON (labels, scores, bboxes), a class as JSON (pred_label,
pred_score, pred_class), a segmentation as a PNG of class numbers; pictures with results drawn on them go to vis/, and
all boxes in COCO's layout to predictions.json. What is there already is not made again. Several processes share the
pictures under torchrun and Slurm, or by --shard.
"""

import argparse
import hashlib
import json
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
from mmengine.config import Config
from tqdm import tqdm

from mmsparse.cli.arguments import (
    add_config_options,
    add_keep_ratio,
    add_runtime,
    check_runtime,
    export_folder,
    read_keep_ratio,
)
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_model, meta_of
from mmsparse.cli.inferring import RESULTS, Found, Infer, check_predictable, coco_of, inferencer_of
from mmsparse.cli.launch import check_writable, share_of
from mmsparse.cli.picture_files import Frame, Reader, find_pictures, with_frames
from mmsparse.deploy import serve
from mmsparse.deploy.artifact import PAGE, checksum
from mmsparse.files import write_whole
from mmsparse.mistakes import is_mistake, mistakes_in
from mmsparse.packaged import weights_path
from mmsparse.trust import add_trust, trust_checkpoints

MADE_BY = "made_by.json"
PREPARING = ("mmcv.transforms", ".datasets.transforms", ".visualization")  # of the libraries


class Job(NamedTuple):
    """A picture and the files to be made of it."""

    picture: Path | Frame
    result: Path
    drawing: Path | None

    def done(self) -> bool:
        return self.result.is_file() and (self.drawing is None or self.drawing.is_file())

    def write(self, found: Found) -> None:
        if self.drawing is not None:
            write_whole(cv2.imencode(".png", found.drawn[..., ::-1])[1].tobytes(), self.drawing)
        write_whole(found.content, self.result)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config")
    parser.add_argument("checkpoint", help="a checkpoint of this config or of its dense twin")
    parser.add_argument("pictures", nargs="+", help="files, folders or patterns; of a video each frame is a picture")
    parser.add_argument("--out", type=Path, help="the folder; default ./work_dirs/<config name>/predictions")
    parser.add_argument("--score-thr", type=float, default=0.3, help="boxes below this score are not drawn")
    parser.add_argument("--no-save-vis", dest="draw", action="store_false", help="draw nothing, which is quicker")
    parser.add_argument("--shard", metavar="I/N", help="the I-th of N shares of the pictures, counted from 0")
    add_runtime(parser)
    add_keep_ratio(parser)
    add_trust(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> None:
    trust_checkpoints(args.trust_checkpoint)
    check_runtime(args)
    out = args.out or Path("work_dirs") / Path(args.config).stem / "predictions"
    check_writable(out, "out")
    share, shares = share_of(args.shard)
    pictures = with_frames(find_pictures(args.pictures, out, videos=True))
    cfg = open_config(args.config, args.cfg_options)
    check_predictable(cfg)
    model, batch = build_model(cfg, args.checkpoint, read_keep_ratio(args)), 1
    if args.runtime:
        batch = serve(model.to("cpu"), export_folder(args.runtime, args.config)).batch
    _claim(out, _made_by(args, cfg))
    suffix = RESULTS[cfg.default_scope]
    jobs = [
        Job(path, out / "preds" / f"{name}{suffix}", out / "vis" / f"{name}.png" if args.draw else None)
        for name, path in pictures.items()
    ]
    mine = jobs[share::shares]
    unusable = _predict(inferencer_of(model, cfg, args.score_thr), mine, batch)
    print(f"{len(mine) - len(unusable)} pictures in {out}")
    if cfg.default_scope == "mmdet" and all(job.result.is_file() for job in jobs):  # the last of several processes
        results = {name: job.result for name, job in zip(pictures, jobs, strict=True)}
        write_whole(coco_of(results, meta_of(cfg).get("classes") or ()), out / "predictions.json")
    if unusable:
        picture, reason = next(iter(unusable.items()))
        raise ValueError(
            f"Argument `pictures`: {len(unusable)} of {len(mine)} cannot be used, such as {picture} ({reason})"
        )


def _predict(infer: Infer, jobs: Sequence[Job], size: int) -> dict[Path | Frame, str]:
    """Do what is not done; returns the pictures that cannot be used, with the reason."""
    left, unusable, reader = [job for job in jobs if not job.done()], {}, Reader()
    with tempfile.TemporaryDirectory() as folder, tqdm(total=len(jobs), desc="predicting") as bar:
        bar.update(len(jobs) - len(left))
        for start in range(0, len(left), size):
            batch = left[start : start + size]
            files = [_file_of(job.picture, reader, Path(folder) / f"{n}.png") for n, job in enumerate(batch)]
            unusable |= {job.picture: "it cannot be decoded" for job, file in zip(batch, files) if file is None}
            given = [pair for pair in zip(batch, files, strict=True) if pair[1] is not None]
            groups = [given] if given else []
            while groups:
                group = groups.pop()
                try:
                    _do(infer, group, size)
                except Exception as error:
                    if not _of_a_picture(error):
                        raise
                    if len(group) == 1:
                        unusable[group[0][0].picture] = f"{type(error).__name__}: {error}".strip()
                    else:  # which one is it?
                        groups += [[pair] for pair in group]
            bar.update(len(batch))
    return unusable


def _do(infer: Infer, group: Sequence[tuple[Job, Path]], size: int) -> None:
    first = group[0][0]
    files = [str(file) for _, file in group]
    files += files[-1:] * (size - len(files))  # an exported network has one batch
    with mistakes_in(f"Argument `pictures`: {first.picture}"):
        results = infer(files, first.drawing is not None)
    for (job, _), found in zip(group, results, strict=False):
        job.write(found)


def _of_a_picture(error: Exception) -> bool:
    """Whether a library failed to prepare it or to draw on it; what fails in a network is a bug."""
    frames = traceback.walk_tb(error.__traceback__)
    modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
    return not is_mistake(error) and any(part in module for module in modules for part in PREPARING)


def _file_of(picture: Path | Frame, reader: Reader, aside: Path) -> Path | None:
    """A picture's file, which for a frame is written; None if it cannot be read."""
    if isinstance(picture, Path):
        return None if cv2.imread(str(picture), cv2.IMREAD_UNCHANGED) is None else picture
    image = reader.frame(picture)
    return None if image is None or not cv2.imwrite(str(aside), image) else aside


def _made_by(args: argparse.Namespace, cfg: Config) -> dict[str, Any]:
    """What results depend on beside their pictures."""
    content = json.dumps(cfg.to_dict(), default=str, sort_keys=True)
    checkpoint = weights_path(args.checkpoint)
    return {
        "config": f"{Path(args.config).name} {hashlib.sha256(content.encode()).hexdigest()}",
        "checkpoint": f"{checkpoint.name} {checksum(checkpoint, ())}" if checkpoint.is_file() else args.checkpoint,
        "runtime": args.runtime and checksum(export_folder(args.runtime, args.config) / PAGE, ()),
        "keep_ratio": args.keep_ratio,
        "score_thr": args.score_thr,
    }


def _claim(out: Path, made_by: dict[str, Any]) -> None:
    """Refuse a folder with results of something else, among which those that are there would be kept."""
    page = out / MADE_BY
    if page.is_file():
        before = json.loads(page.read_text())
        other = [name for name, value in made_by.items() if before.get(name) != value]
        if other:
            raise FileExistsError(
                f"Argument `out`: {str(out)!r} holds predictions of another {' and '.join(other)}. Choose another "
                "folder, or delete it"
            )
    write_whole(json.dumps(made_by, indent=1) + "\n", page)
