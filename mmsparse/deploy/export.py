"""From a model in PyTorch to files that other runtimes run."""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsparse.apis import dense_twin, find_dials, get_keep_ratio
from mmsparse.files import blaming_room
from mmsparse.ops import for_integers
from mmsparse.version import __version__

from .artifact import PAGE, Artifact, Size, checksum, key_of
from .check import check_exportable
from .formats import DTYPES, FORMATS, INT8, HalfPrecision
from .integers import quantise
from .program import Program

INPUTS = ("pictures", "sizes")


@dataclass(frozen=True)
class Wish:
    """What is to be exported, and how.

    Args:
        format: One of ``FORMATS``.
        sizes: Heights and widths, a program each.
        batch: Pictures of a call.
        precision: One of ``PRECISIONS``.
        part: "model" or "backbone".
        padded: Whether the real sizes of padded pictures are a second input; None: for detectors.
        preprocess: Whether it normalises pictures itself.
        decoded: Whether post-processing is a part of it.
        masks: Whether the keep masks are results, too.
        pictures: What int8 learns from how large numbers get: preprocessed (C, H, W), as a call has them.
    """

    format: str
    sizes: Sequence[Size]
    batch: int = 1
    precision: str = "f32"
    part: str = "model"
    padded: bool | None = None
    preprocess: bool = False
    decoded: bool = False
    masks: bool = False
    pictures: Sequence[Tensor] = ()


def export(
    model: nn.Module,
    wish: Wish,
    folder: Path,
    classes: Sequence[str] | None = None,
    source: dict[str, str | None] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Artifact:
    """Write a model's programs into a folder, which is there whole or not at all.

    Args:
        model: In evaluation, on the CPU.
        wish: What of it, and how.
        folder: May hold an older export, which is replaced.
        classes: Names for the page.
        source: Names of config and checkpoint for the page.
        tell: What happens, line by line.
    """
    kind = FORMATS[wish.format]
    kind.check(wish.precision, writing=True)
    program = Program(model, wish.part, wish.preprocess, wish.decoded, wish.masks).eval()
    if wish.decoded and program.kind == "detector" and wish.precision != "f32":
        raise ValueError(
            f"--decoded needs --precision f32, but got {wish.precision}, in which boxes are off by pixels. Export "
            "without --decoded"
        )
    padded = wish.padded if wish.padded is not None else program.kind in ("detector", "proposals")
    check_exportable(model, padded)
    if folder.exists() and not (folder / PAGE).is_file():
        raise FileExistsError(f"Argument `out`: {str(folder)!r} is there and is no export. Choose another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with warnings.catch_warnings(), blaming_room(aside, folder):
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # of PyTorch, about itself
            artifact = _write(model, program, wish, padded, aside, classes, source or {}, tell)
        aside.chmod(0o755)  # a temporary folder is its maker's alone
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return artifact


def _write(
    model: nn.Module,
    program: Program,
    wish: Wish,
    padded: bool,
    folder: Path,
    classes: Sequence[str] | None,
    source: dict[str, str | None],
    tell: Callable[[str], None],
) -> Artifact:
    kind = FORMATS[wish.format]
    files, macs, agreement, equal_masks = {}, {}, {}, {}
    for size in wish.sizes:
        key = key_of(size)
        path, calls = folder / f"{key}{kind.suffix}", calls_of(wish, size, padded)
        inputs, names = calls[0], INPUTS[: len(calls[0])]
        layout = program.layout(inputs[0])
        tell(f"{key}: reading the network")
        in_integers = wish.precision == INT8
        with torch.no_grad(), for_integers() if in_integers else nullcontext():
            exported = torch.export.export(_cast(program, wish, kind.casts), inputs, strict=False)
        tell(f"{key}: writing {wish.format}, which takes minutes for a large network")
        kind.write(exported, path, names, layout.names)
        if in_integers:
            tell(f"{key}: quantising, after {len(calls) * wish.batch} pictures")
            quantise(path, exported, program, [dict(zip(names, call, strict=True)) for call in calls])
        files[key] = {"name": path.name, "sha256": checksum(path, kind.beside)}
        macs[key] = _macs(program, inputs)
        agreement[key], equal = _compare(kind.load(path, wish.precision, None)(inputs), program, inputs)
        tell(f"{key}: within {agreement[key]:.1e} of PyTorch, relative to the largest number of each result")
        if equal is not None:
            equal_masks[key] = equal
            tell(f"{key}: {100 * equal:.3f} % of keep masks equal")
    artifact = Artifact(
        format=wish.format,
        kind=program.kind,
        precision=wish.precision,
        batch=wish.batch,
        padded=padded,
        preprocess=wish.preprocess,
        decoded=wish.decoded,
        files=files,
        names=list(layout.names),
        nested=layout.nested,
        classes=None if classes is None else list(classes),
        budgets=get_keep_ratio(model),
        macs=macs,
        agreement=agreement,
        equal_masks=equal_masks,
        source=source,
        versions=versions_of(kind.writers(wish.precision)),
    )
    artifact.write(folder)
    return artifact


def inputs_of(wish: Wish, size: Size, padded: bool) -> tuple[Tensor, ...]:
    """Noise, as a call has it."""
    noise = torch.randn(wish.batch, 3, *size, generator=torch.Generator().manual_seed(0))
    pictures = noise.mul(50).add(120).clamp(0, 255) if wish.preprocess else noise
    return (pictures, torch.tensor([size] * wish.batch)) if padded else (pictures,)


def calls_of(wish: Wish, size: Size, padded: bool) -> list[tuple[Tensor, ...]]:
    """Inputs of the wish's pictures, batch by batch, those that are larger cut; without pictures noise."""
    if 0 < len(wish.pictures) < wish.batch:
        raise ValueError(
            f"The {len(wish.pictures)} pictures of --calibration make no batch of {wish.batch}. Give at least as many, "
            "or a smaller --batch"
        )
    calls = []
    for start in range(0, len(wish.pictures) - wish.batch + 1, wish.batch):
        real = [picture[:, : size[0], : size[1]] for picture in wish.pictures[start : start + wish.batch]]
        sizes = [tuple(picture.shape[1:]) for picture in real]
        filled = [F.pad(x, (0, size[1] - wide, 0, size[0] - high)) for x, (high, wide) in zip(real, sizes, strict=True)]
        calls.append((torch.stack(filled), torch.tensor(sizes)) if padded else (torch.stack(filled),))
    return calls or [inputs_of(wish, size, padded)]


def _cast(program: Program, wish: Wish, casts: bool) -> nn.Module:
    return HalfPrecision(program, wish.precision) if casts and wish.precision in DTYPES else program


def _macs(program: Program, inputs: Sequence[Tensor]) -> dict[str, int]:
    executed = dense = program.macs(inputs)
    if find_dials(program):
        with dense_twin(program):
            dense = program.macs(inputs)
    return {"executed": executed, "dense": dense}


def _compare(results: Sequence[Tensor], program: Program, inputs: Sequence[Tensor]) -> tuple[float, float | None]:
    """The largest relative difference of a result, and the share of equal units of all keep masks, if there are any."""
    with torch.no_grad():
        pairs = list(zip(results, program(*inputs), strict=True))
    masks = [mine.bool() == wanted for mine, wanted in pairs if wanted.dtype == torch.bool]
    differences = [
        float((mine.float() - wanted.float()).abs().max() / wanted.abs().max().clamp_min(1e-12))
        for mine, wanted in pairs
        if wanted.dtype != torch.bool
    ]
    return max(differences), float(torch.cat([mask.flatten() for mask in masks]).float().mean()) if masks else None


def versions_of(needs: Sequence[str]) -> dict[str, str]:
    versions: dict[str, Any] = {"mmsparse": __version__, "torch": torch.__version__}
    for name in needs:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions
