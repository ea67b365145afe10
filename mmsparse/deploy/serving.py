"""An exported network in a model's place: what is around it, such as post-processing and sliding windows, stays."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsparse.sparsity import valid

from .artifact import Artifact, Size, key_of
from .formats import FORMATS, Run
from .program import MASK, head_of, kind_of

PADDABLE = ("detector", "proposals")


def serve(model: nn.Module, folder: Path, threads: int | None = None) -> Artifact:
    """Let a model of OpenMMLab run its exported network: the same pictures in, the same predictions out.

    The runtime takes the backbone's place, and the head hands on what it is given.

    Args:
        model: A detector, segmenter or classifier as its config builds it.
        folder: What ``export`` wrote.
        threads: Of the runtime; None: its own choice.
    """
    artifact = Artifact.read(folder)
    FORMATS[artifact.format].check(artifact.precision)
    if artifact.decoded:
        raise ValueError(
            f"Argument `runtime`: {folder} was exported with --decoded, for use without PyTorch. Export it without"
        )
    if artifact.kind == "backbone":
        model.backbone = Served(artifact, folder, threads)
        return artifact
    if (kind := kind_of(model)) != artifact.kind:
        raise ValueError(
            f"Argument `runtime`: {folder} holds a {artifact.kind}, but the config builds a {kind}. Export this config"
        )
    head = model.rpn_head if kind == "proposals" else head_of(model)
    own = getattr(head, "num_classes", None)
    if artifact.classes is not None and own is not None and kind != "proposals" and own != len(artifact.classes):
        raise ValueError(
            f"Argument `runtime`: {folder} tells {len(artifact.classes)} classes apart, but the config's head {own}. "
            "Export this config"
        )
    model.backbone = Served(artifact, folder, threads)
    if hasattr(model, "neck"):
        model.neck = None
    head.forward = _of_proposals if kind == "proposals" else _handed_on
    if artifact.preprocess:
        model.data_preprocessor._channel_conversion = model.data_preprocessor._enable_normalize = False
    return artifact


class _Maps(tuple):
    """The maps of a two-stage detector, and what its first head said of them."""

    proposed: Any


def _handed_on(results: Any) -> Any:
    return results


def _of_proposals(maps: _Maps) -> Any:
    return maps.proposed


class Served(nn.Module):
    """An exported network.

    Args:
        artifact: What it is.
        folder: Where it is.
        threads: Of the runtime.
    """

    def __init__(self, artifact: Artifact, folder: Path, threads: int | None) -> None:
        super().__init__()
        self.artifact, self.folder, self.threads = artifact, folder, threads
        self.programs: dict[Size, Run] = {}

    def forward(self, pictures: Tensor) -> Any:
        artifact = self.artifact
        if len(pictures) != artifact.batch:
            raise ValueError(
                f"The network was exported for batches of {artifact.batch}, but got {len(pictures)} pictures. Export "
                f"it with --batch {len(pictures)}, or set test_dataloader.batch_size={artifact.batch}"
            )
        valid.read(pictures)
        given = (int(pictures.shape[-2]), int(pictures.shape[-1]))
        size = self._fitting(given)
        inputs = [F.pad(pictures, (0, size[1] - given[1], 0, size[0] - given[0])).contiguous()]
        if artifact.padded:
            inputs.append(torch.tensor(valid.sizes_of_call(len(pictures)) or [given] * len(pictures)))
        if size not in self.programs:
            self.programs[size] = artifact.load(self.folder, size, self.threads)
        named = artifact.layout.fill(self.programs[size](inputs))
        named = {name: result for name, result in named.items() if not name.startswith(MASK)}
        if artifact.kind == "backbone":
            return tuple(named["maps"])
        if artifact.kind == "proposals":
            maps = _Maps(named.pop("maps"))
            maps.proposed = tuple(named.values())
            return maps
        return tuple(named.values()) if len(named) > 1 else next(iter(named.values()))

    def _fitting(self, given: Size) -> Size:
        """The size of the program that runs pictures of a size."""
        sizes = self.artifact.sizes
        if self.artifact.padded and self.artifact.kind in PADDABLE:
            sizes = sorted(sizes, key=lambda size: size[0] * size[1])
            fitting = [size for size in sizes if size[0] >= given[0] and size[1] >= given[1]]
        else:
            fitting = [given] if given in sizes else []
        if not fitting:
            there = _listed(sizes)
            raise ValueError(
                f"The network was exported for pictures of {there}, but got one of {key_of(given)}. Export it with "
                f"--size {given[0]} {given[1]} as well, or resize in the test pipeline"
            )
        return fitting[0]


def _listed(sizes: Sequence[Size]) -> str:
    return " and ".join(map(key_of, sizes))
