"""An exported network on disk: a folder of programs, one a size, and a page that says what they are."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .formats import FORMATS, Run
from .program import Layout

PAGE = "mmsparse.json"
Size = tuple[int, int]


@dataclass(frozen=True)
class Artifact:
    """What the page says.

    Args:
        format: One of ``FORMATS``.
        kind: What the model is, see ``program.kind_of``.
        precision: What it computes in.
        batch: Pictures of a call.
        padded: Whether the real sizes of padded pictures are its second input.
        preprocess: Whether it normalises pictures itself.
        decoded: Whether its results are boxes, a label map or scores rather than what these are made of.
        files: Name and sha256 of each size's program, by "HxW".
        names: Of its results.
        nested: How they are put into lists again.
        classes: Of the data set, if they are known.
        budgets: Keep ratio of each place.
        macs: Multiply-accumulates of a call, executed and dense, by "HxW".
        agreement: Largest difference from PyTorch, relative to the largest number of each result, by "HxW".
        equal_masks: Share of units that were decided as in PyTorch, by "HxW"; empty if masks are no results.
        source: Names of config and checkpoint.
        versions: Of what made it.
    """

    format: str
    kind: str
    precision: str
    batch: int
    padded: bool
    preprocess: bool
    decoded: bool
    files: dict[str, dict[str, str]]
    names: list[str]
    nested: dict[str, Any]
    classes: list[str] | None
    budgets: dict[str, float]
    macs: dict[str, dict[str, int]]
    agreement: dict[str, float]
    equal_masks: dict[str, float]
    source: dict[str, str | None]
    versions: dict[str, str]

    @property
    def sizes(self) -> list[Size]:
        return [tuple(map(int, size.split("x"))) for size in self.files]

    @property
    def layout(self) -> Layout:
        return Layout(tuple(self.names), self.nested)

    def write(self, folder: Path) -> None:
        (folder / PAGE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path, argument: str = "runtime") -> "Artifact":
        if not (folder / PAGE).is_file():
            raise FileNotFoundError(
                f"Argument `{argument}`: {str(folder)!r} holds no exported network (no {PAGE}). Make one with "
                "mmsparse export CONFIG CHECKPOINT --to FORMAT --size H W"
            )
        try:
            return cls(**json.loads((folder / PAGE).read_text()))
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"Argument `{argument}`: {folder / PAGE} is not of this version of mmsparse ({error}). Export anew"
            ) from error

    def load(self, folder: Path, size: Size, threads: int | None = None) -> Run:
        """The program of a size, which must be the one that was written."""
        kind = FORMATS[self.format]
        kind.check(self.precision)
        entry = self.files[key_of(size)]
        path = folder / entry["name"]
        if checksum(path, kind.beside) != entry["sha256"]:
            raise ValueError(f"{path} is not the file that {PAGE} describes (its sha256 differs). Export anew")
        return kind.load(path, self.precision, threads)


def key_of(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def checksum(path: Path, beside: Sequence[str]) -> str:
    """Of a file and of those that belong to it."""
    digest = hashlib.sha256()
    for file in (path, *(path.with_suffix(suffix) for suffix in beside)):
        with open(file, "rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
