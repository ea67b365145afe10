"""Writes generated pictures in the formats of COCO (instances) and ADE20K (label maps).

    OUT/train/images/000000.jpg   OUT/train/labels/000000.png   OUT/annotations/train.json   and the same for val
    OUT/<name>.json               the arguments; written last, so that its presence means "complete"

While the work is under way the arguments lie in ``<name>.partial.json`` and each finished picture has a line in
``annotations/<split>.jsonl``; a run that was interrupted continues behind the last whole line.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from tqdm import tqdm

from mmsparse.files import write_whole

from .pictures import SPLITS, Picture

_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 3]


@dataclass(frozen=True)
class DatasetArgs:
    """What determines the bytes of a generated data set. ``val`` defaults to a fifth of ``images``.

    A generator is a child class: its name, its version (raised whenever the same arguments give other bytes), its
    classes with their supercategories, and how it makes one picture.
    """

    name: ClassVar[str]
    format_version: ClassVar[int]
    categories: ClassVar[dict[str, str]]

    images: int
    size: int
    seed: int
    val: int | None = None

    def __post_init__(self) -> None:
        if self.val is None:
            object.__setattr__(self, "val", max(1, self.images // 5))
        for name, least in (("images", 1), ("val", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"Expected '{name}' to be at least {least}, but got {getattr(self, name)}")

    def render(self, split: str, index: int) -> Picture:
        raise NotImplementedError

    def count(self, split: str) -> int:
        return self.images if split == "train" else self.val

    def as_marker(self) -> dict[str, Any]:
        return {"format_version": self.format_version, **asdict(self)}


def write_dataset(out: Path, args: DatasetArgs, overwrite: bool = False, progress: bool = True) -> bool:
    """Write a data set, or finish one that was interrupted; False if the same one is already complete.

    Raises:
        ValueError: ``out`` holds something else.
        OSError: ``out`` cannot be written.
    """
    out = Path(out)
    marker, partial = _markers(out, args)
    found = _read_marker(marker, partial)
    if found is None:
        if out.is_dir() and any(out.iterdir()):
            raise ValueError(f"{out} is not empty and holds no generated {args.name}: choose another folder")
    elif overwrite:
        _remove_old(out, args)
    elif found != args.as_marker():
        raise ValueError(
            f"{out} holds {args.name} made with {_describe(found)}, but asked for are {_describe(args.as_marker())}: "
            "choose another folder, or replace them with --overwrite"
        )
    elif _is_complete(out, args):
        return False

    for split in SPLITS:
        for folder in ("images", "labels"):
            (out / split / folder).mkdir(parents=True, exist_ok=True)
    (out / "annotations").mkdir(exist_ok=True)
    write_whole(json.dumps(args.as_marker()), partial)
    marker.unlink(missing_ok=True)
    for split in SPLITS:
        _write_split(out, split, args, progress)
    for split in SPLITS:
        _records_path(out, split).unlink()
    os.replace(partial, marker)
    return True


def _write_split(out: Path, split: str, args: DatasetArgs, progress: bool) -> None:
    path, count = _records_path(out, split), args.count(split)
    records = _whole_lines(path)
    # Written anew, so that the torn last line of an interrupted run is gone before more is appended.
    write_whole("".join(json.dumps(record) + "\n" for record in records), path)
    with open(path, "a") as lines:
        todo = range(len(records), count)
        for index in tqdm(todo, desc=split, total=count, initial=len(records), unit="img", disable=not progress):
            picture = args.render(split, index)
            _write_image(out / split / "images" / f"{index:06d}.jpg", picture.image, _JPEG)
            _write_image(out / split / "labels" / f"{index:06d}.png", picture.labels, _PNG)
            records.append(picture.record)
            lines.write(json.dumps(records[-1]) + "\n")
            lines.flush()
    write_whole(json.dumps(instances_file(type(args), records, args.size)), out / "annotations" / f"{split}.json")


def instances_file(kind: type[DatasetArgs], records: list[list[dict[str, Any]]], size: int) -> dict[str, Any]:
    """One COCO instances file from the records of all pictures of a split; the image id is the picture's index."""
    images = [
        {"id": index, "file_name": f"{index:06d}.jpg", "width": size, "height": size} for index in range(len(records))
    ]
    # Annotation ids start at 1: pycocotools takes a match with id 0 for no match.
    pairs = ((index, record) for index, picture in enumerate(records) for record in picture)
    annotations = [{"id": number, "image_id": index, **record} for number, (index, record) in enumerate(pairs, start=1)]
    categories = [
        {"id": number, "name": name, "supercategory": above}
        for number, (name, above) in enumerate(kind.categories.items(), start=1)
    ]
    info = {"description": f"Generated {kind.name}", "version": str(kind.format_version)}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed RLE: lengths of runs in column order, beginning with a (possibly empty) run of zeros."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    edges = np.concatenate([[0], changes, [mask.size]])
    counts = np.diff(edges).tolist()
    return {"size": list(mask.shape), "counts": counts if counts[-1] else counts[:-1]}


def outlines(mask: np.ndarray, corner: tuple[int, int]) -> list[list[float]]:
    """Outlines [x, y, x, y, ...] of a mask that begins at ``corner``, in pixel-edge coordinates, without holes."""
    return [(points + corner).round(2).ravel().tolist() for points in _hole_free(mask.astype(np.uint8))]


def _hole_free(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Outer outlines (N, 2) of a mask; one with a hole is cut into two through the hole, until none is left."""
    scale = 4  # outlines run through pixel centres: on finer pixels that is nearly the pixel's edge
    fine = cv2.copyMakeBorder(np.kron(mask, np.ones((scale, scale), np.uint8)), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parents = hierarchy[0, :, 3]
    holes = np.flatnonzero(parents >= 0)
    if holes.size:
        cut = int(contours[holes[0]][:, 0, 0].mean() - 1) // scale
        cut = min(max(cut, 1), mask.shape[1] - 1)
        for start, part in ((0, mask[:, :cut]), (cut, mask[:, cut:])):
            if part.any():
                yield from (points + (start, 0) for points in _hole_free(part))
        return
    for contour in contours:
        contour = cv2.approxPolyDP(contour, 0.5 * scale, True)
        if len(contour) >= 3:
            yield (contour[:, 0] - 1 + 0.5) / scale


def _records_path(out: Path, split: str) -> Path:
    return out / "annotations" / f"{split}.jsonl"


def _markers(out: Path, args: DatasetArgs) -> tuple[Path, Path]:
    return out / f"{args.name}.json", out / f"{args.name}.partial.json"


def _read_marker(*paths: Path) -> dict[str, Any] | None:
    """The arguments of what lies in a folder; {} if they are unreadable, None if nothing of ours lies there."""
    for path in paths:
        if path.is_file():
            try:
                found = json.loads(path.read_text())
            except ValueError:
                return {}
            return found if isinstance(found, dict) else {}
    return None


def _describe(marker: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in marker.items()) or "unknown arguments"


def _is_complete(out: Path, args: DatasetArgs) -> bool:
    if not _markers(out, args)[0].is_file():
        return False
    for split in SPLITS:
        expected = args.count(split)
        for folder, suffix in (("images", "jpg"), ("labels", "png")):
            if len(_own_files(out / split / folder, suffix)) < expected:
                return False
        if not (out / "annotations" / f"{split}.json").is_file():
            return False
    return True


def _own_files(folder: Path, suffix: str) -> list[Path]:
    return list(folder.glob(f"[0-9][0-9][0-9][0-9][0-9][0-9].{suffix}"))


def _remove_old(out: Path, args: DatasetArgs) -> None:
    """Remove what this module wrote and nothing else."""
    for split in SPLITS:
        for path in (*_own_files(out / split / "images", "jpg"), *_own_files(out / split / "labels", "png")):
            path.unlink()
        for suffix in ("json", "jsonl"):
            (out / "annotations" / f"{split}.{suffix}").unlink(missing_ok=True)
    # The markers go last: until then the folder can be told as ours.
    for path in _markers(out, args):
        path.unlink(missing_ok=True)


def _whole_lines(path: Path) -> list[list[dict[str, Any]]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _write_image(path: Path, image: np.ndarray, options: list[int]) -> None:
    # Not cv2.imwrite: it reports a full disk or a missing folder by returning False.
    done, data = cv2.imencode(path.suffix, image, options)
    assert done
    path.write_bytes(data.tobytes())
