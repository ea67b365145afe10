"""Which pictures a command line means."""

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def find_pictures(given: Sequence[str], beside: Path | None = None) -> dict[str, Path]:
    """Pictures by what they are called: their path in the folder that was given, or their name, without a suffix.

    Args:
        given: Files, folders (with those inside) or patterns.
        beside: A folder whose pictures are not meant, for they are results.
    """
    found: dict[str, Path] = {}
    for argument in given:
        before = len(found)
        for name, path in _of_argument(argument):
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
                f"folder, pictures end in {', '.join(SUFFIXES)}"
            )
    return found


def _of_argument(argument: str) -> Iterator[tuple[str, Path]]:
    paths = [Path(argument)] if Path(argument).exists() else [Path(path) for path in sorted(glob.glob(argument))]
    for path in paths:
        if not path.is_dir():
            yield path.stem, path
            continue
        for inside in sorted(path.rglob("*")):
            if inside.suffix.lower() in SUFFIXES and inside.is_file():
                yield str(inside.relative_to(path).with_suffix("")), inside
