"""Which pictures a command line means."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEOS = (".avi", ".mkv", ".mov", ".mp4", ".webm")


class Frame(NamedTuple):
    """A picture of a video."""

    video: Path
    number: int

    def __str__(self) -> str:
        return f"frame {self.number} of {self.video}"


def with_frames(found: dict[str, Path]) -> dict[str, Path | Frame]:
    """Each video's frames in its place, by its name and their number."""
    pictures: dict[str, Path | Frame] = {}
    for name, path in found.items():
        if path.suffix.lower() in VIDEOS:
            pictures |= {f"{name}/{number:06d}": Frame(path, number) for number in range(_length(path))}
        else:
            pictures[name] = path
    return pictures


def _length(video: Path) -> int:
    length = int(cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT))
    if length < 1:
        raise ValueError(f"Argument `pictures`: {video} cannot be read as a video")
    return length


class Reader:
    """Reads pictures; frames of a video go quickest in their order."""

    def __init__(self) -> None:
        self._video: Path | None = None

    def frame(self, frame: Frame) -> np.ndarray | None:
        """(H, W, 3) BGR; None where the video ends before it."""
        if self._video != frame.video or self._next > frame.number:
            self._video, self._capture, self._next = frame.video, cv2.VideoCapture(str(frame.video)), 0
        while self._next < frame.number:
            self._capture.grab()
            self._next += 1
        self._next += 1
        return self._capture.read()[1]


def find_pictures(given: Sequence[str], beside: Path | None = None, videos: bool = False) -> dict[str, Path]:
    """Pictures by what they are called: their path in the folder that was given, or their name, without a suffix.

    Args:
        given: Files, folders (with those inside) or patterns.
        beside: A folder whose pictures are not meant, for they are results.
        videos: Whether those inside of folders are meant, too.
    """
    suffixes = SUFFIXES + VIDEOS * videos
    found: dict[str, Path] = {}
    for argument in given:
        before = len(found)
        for name, path in _of_argument(argument, suffixes):
            if beside is not None and beside.resolve() in path.resolve().parents:
                continue
            if (other := found.setdefault(name, path)).resolve() != path.resolve():
                raise ValueError(
                    f"Argument `pictures`: the results of {other} and {path} would have the same name, {name!r}. Give "
                    "the folder that both are in, or give each another --out"
                )
        if len(found) == before and not Path(argument).is_file():
            raise FileNotFoundError(
                f"Argument `pictures`: there is no picture at {argument!r}. Give files, folders or patterns; in a "
                f"folder, pictures end in {', '.join(suffixes)}"
            )
    return found


def _of_argument(argument: str, suffixes: Sequence[str]) -> Iterator[tuple[str, Path]]:
    paths = [Path(argument)] if Path(argument).exists() else [Path(path) for path in sorted(glob.glob(argument))]
    for path in paths:
        if not path.is_dir():
            yield path.stem, path
            continue
        for inside in sorted(path.rglob("*")):
            if inside.suffix.lower() in suffixes and inside.is_file():
                yield str(inside.relative_to(path).with_suffix("")), inside
