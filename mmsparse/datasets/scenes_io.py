"""Generated scenes as a data set: what the writer must know of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .pictures import Picture
from .scenes import CLASSES, Instance, Scene, check_size, render_scene
from .writer import DatasetArgs, instances_file, outlines, run_lengths, write_dataset


@dataclass(frozen=True)
class ScenesArgs(DatasetArgs):
    """What determines the bytes of a generated data set of scenes."""

    name: ClassVar[str] = "scenes"
    format_version: ClassVar[int] = 3
    categories: ClassVar[dict[str, str]] = {name: name.split("-")[1] for name in CLASSES}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.size)

    def render(self, split: str, index: int) -> Picture:
        scene = render_scene(self.seed, split, index, self.size)
        return Picture(scene.image, scene.labels, picture_record(scene))


def write_scenes(out: Path, args: ScenesArgs, overwrite: bool = False, progress: bool = True) -> bool:
    """``write_dataset`` for scenes."""
    return write_dataset(out, args, overwrite, progress)


def coco_dict(records: list[list[dict[str, Any]]], size: int) -> dict[str, Any]:
    """One COCO instances file from the records of all pictures of a split."""
    return instances_file(ScenesArgs, records, size)


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


def polygons(instance: Instance) -> list[list[float]]:
    """Outlines of the visible part."""
    x, y, w, h = instance.bbox
    return outlines(instance.mask[y : y + h, x : x + w], (x, y))
