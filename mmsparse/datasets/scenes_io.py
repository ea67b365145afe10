"""Writes generated scenes in the formats of COCO (instances) and ADE20K (label maps).

    OUT/train/images/000000.jpg   OUT/train/labels/000000.png   OUT/annotations/train.json   and the same for val
    OUT/scenes.json               the arguments; written last, so that its presence means "complete"

While the work is under way the arguments lie in ``scenes.partial.json`` and each finished picture has a line in
``annotations/<split>.jsonl``; a run that was interrupted continues behind the last whole line.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from .scenes import CLASSES, SPLITS, Instance, Scene, check_size, render_scene

FORMAT_VERSION = 3  # raise it whenever the same arguments give other bytes
MARKER, PARTIAL_MARKER = "scenes.json", "scenes.partial.json"
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 95]
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 3]


@dataclass(frozen=True)
class ScenesArgs:
    """What determines the bytes of a generated data set. ``val`` defaults to a fifth of ``images``."""

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
        check_size(self.size)

    def count(self, split: str) -> int:
        return self.images if split == "train" else self.val

    def as_marker(self) -> dict[str, int]:
        return {"format_version": FORMAT_VERSION, **asdict(self)}


def write_scenes(out: Path, args: ScenesArgs, overwrite: bool = False, progress: bool = True) -> bool:
    """Write a data set, or finish one that was interrupted; False if the same one is already complete.

    Raises:
        ValueError: ``out`` holds something else.
        OSError: ``out`` cannot be written.
    """
    out = Path(out)
    found = _read_marker(out)
    if found is None:
        if out.is_dir() and any(out.iterdir()):
            raise ValueError(f"{out} is not empty and holds no generated scenes: choose another folder")
    elif overwrite:
        _remove_old(out)
    elif found != args.as_marker():
        raise ValueError(
            f"{out} holds scenes made with {_describe(found)}, but asked for are {_describe(args.as_marker())}: "
            "choose another folder, or replace them with --overwrite"
        )
    elif _is_complete(out, args):
        return False

    for split in SPLITS:
        for folder in ("images", "labels"):
            (out / split / folder).mkdir(parents=True, exist_ok=True)
    (out / "annotations").mkdir(exist_ok=True)
    _replace_text(out / PARTIAL_MARKER, json.dumps(args.as_marker()))
    (out / MARKER).unlink(missing_ok=True)
    for split in SPLITS:
        _write_split(out, split, args, progress)
    for split in SPLITS:
        _records_path(out, split).unlink()
    os.replace(out / PARTIAL_MARKER, out / MARKER)
    return True


def _write_split(out: Path, split: str, args: ScenesArgs, progress: bool) -> None:
    path, count = _records_path(out, split), args.count(split)
    records = _whole_lines(path)
    # Written anew, so that the torn last line of an interrupted run is gone before more is appended.
    _replace_text(path, "".join(json.dumps(record) + "\n" for record in records))
    with open(path, "a") as lines:
        todo = range(len(records), count)
        for index in tqdm(todo, desc=split, total=count, initial=len(records), unit="img", disable=not progress):
            scene = render_scene(args.seed, split, index, args.size)
            _write_image(out / split / "images" / f"{index:06d}.jpg", scene.image, _JPEG)
            _write_image(out / split / "labels" / f"{index:06d}.png", scene.labels, _PNG)
            records.append(picture_record(scene))
            lines.write(json.dumps(records[-1]) + "\n")
            lines.flush()
    _replace_text(out / "annotations" / f"{split}.json", json.dumps(coco_dict(records, args.size)))


def coco_dict(records: list[list[dict[str, Any]]], size: int) -> dict[str, Any]:
    """One COCO instances file from the records of all pictures of a split; the image id is the picture's index."""
    images = [
        {"id": index, "file_name": f"{index:06d}.jpg", "width": size, "height": size} for index in range(len(records))
    ]
    # Annotation ids start at 1: pycocotools takes a match with id 0 for no match.
    pairs = ((index, record) for index, picture in enumerate(records) for record in picture)
    annotations = [{"id": number, "image_id": index, **record} for number, (index, record) in enumerate(pairs, start=1)]
    categories = [
        {"id": number, "name": name, "supercategory": name.split("-")[1]}
        for number, name in enumerate(CLASSES, start=1)
    ]
    info = {"description": "Generated scenes", "version": str(FORMAT_VERSION)}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def picture_record(scene: Scene) -> list[dict[str, Any]]:
    """The annotations of one picture, still without ids."""
    return [
        {
            "category_id": instance.category + 1,
            "bbox": list(instance.bbox),
            "area": instance.area,
            "iscrowd": int(instance.iscrowd),
            "segmentation": run_lengths(instance.mask) if instance.iscrowd else polygons(instance),
        }
        for instance in scene.instances
    ]


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed RLE: lengths of runs in column order, beginning with a (possibly empty) run of zeros."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    edges = np.concatenate([[0], changes, [mask.size]])
    counts = np.diff(edges).tolist()
    return {"size": list(mask.shape), "counts": counts if counts[-1] else counts[:-1]}


def polygons(instance: Instance) -> list[list[float]]:
    """Outlines [x, y, x, y, ...] of the visible part, in pixel-edge coordinates; they have no holes."""
    x, y, w, h = instance.bbox
    found = _hole_free(instance.mask[y : y + h, x : x + w].astype(np.uint8))
    return [(points + (x, y)).round(2).ravel().tolist() for points in found]


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


def _read_marker(out: Path) -> dict[str, Any] | None:
    """The arguments of what lies in ``out``; {} if they are unreadable, None if nothing of ours lies there."""
    for name in (MARKER, PARTIAL_MARKER):
        if (out / name).is_file():
            try:
                found = json.loads((out / name).read_text())
            except ValueError:
                return {}
            return found if isinstance(found, dict) else {}
    return None


def _describe(marker: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in marker.items()) or "unknown arguments"


def _is_complete(out: Path, args: ScenesArgs) -> bool:
    if not (out / MARKER).is_file():
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


def _remove_old(out: Path) -> None:
    """Remove what this module wrote and nothing else."""
    for split in SPLITS:
        for path in (*_own_files(out / split / "images", "jpg"), *_own_files(out / split / "labels", "png")):
            path.unlink()
        for suffix in ("json", "jsonl"):
            (out / "annotations" / f"{split}.{suffix}").unlink(missing_ok=True)
    # The markers go last: until then the folder can be told as ours.
    for name in (MARKER, PARTIAL_MARKER):
        (out / name).unlink(missing_ok=True)


def _whole_lines(path: Path) -> list[list[dict[str, Any]]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _write_image(path: Path, image: np.ndarray, options: list[int]) -> None:
    # Not cv2.imwrite: it reports a full disk or a missing folder by returning False.
    done, data = cv2.imencode(path.suffix, image, options)
    assert done
    path.write_bytes(data.tobytes())


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
