"""A model as a function of tensors: what of it is exported, and what its results are called."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmsparse.analysis import count_macs
from mmsparse.apis import record_selections
from mmsparse.sparsity.valid import real_sizes

from .decode import decoder_of

PARTS = ("model", "backbone")
MASK = "keep_mask."  # begins the name of a result that is one


@dataclass(frozen=True)
class Layout:
    """How the exported results are put into lists and tuples again.

    Args:
        names: Of each result, such as ``cls_scores.0``.
        nested: Their numbers, as what the model gives is nested.
    """

    names: tuple[str, ...]
    nested: Any

    @classmethod
    def of(cls, named: dict[str, Any]) -> "Layout":
        """Of results by name, each a tensor or tensors in lists or tuples."""
        names: list[str] = []

        def number(name: str, value: Any) -> Any:
            if isinstance(value, Tensor):
                names.append(name)
                return len(names) - 1
            return [number(f"{name}.{i}", part) for i, part in enumerate(value)]

        nested = {name: number(name, value) for name, value in named.items()}
        return cls(tuple(names), nested)

    def fill(self, results: Sequence[Any]) -> dict[str, Any]:
        """What was nested, of the results."""

        def get(nested: Any) -> Any:
            return results[nested] if isinstance(nested, int) else [get(part) for part in nested]

        return {name: get(nested) for name, nested in self.nested.items()}


class Program(nn.Module):
    """What is exported: from pictures to a flat tuple of tensors.

    Args:
        model: A detector, segmenter or classifier of OpenMMLab, or a backbone.
        part: "model": up to what its head gives, before post-processing; of a two-stage detector up to the head that
            proposes. "backbone": the maps.
        preprocess: Whether pictures come as the data preprocessor gets them, values from 0 to 255 in its order.
        decoded: Whether post-processing is a part of it.
        masks: Whether the keep masks of all places are results, too, each by its place.
    """

    def __init__(
        self,
        model: nn.Module,
        part: str = "model",
        preprocess: bool = False,
        decoded: bool = False,
        masks: bool = False,
    ) -> None:
        super().__init__()
        if part not in PARTS:
            raise ValueError(f"Expected argument `part` to be one of {PARTS}, but got {part!r}")
        self.model = model
        self.kind = "backbone" if part == "backbone" else kind_of(model)
        self.preprocess = preprocess
        self.decode = decoder_of(model, self.kind) if decoded else None
        self.masks = masks

    def named(self, pictures: Tensor, sizes: Tensor | None = None) -> dict[str, Any]:
        """The results by name, nested as the model does."""
        with record_selections(self.model) if self.masks else nullcontext([]) as taken:
            results = self._raw(pictures)
        if self.decode is not None:
            results = self.decode(results, pictures, sizes)
        return {**results, **{f"{MASK}{place}": selection.keep_mask for place, selection in taken}}

    def _raw(self, pictures: Tensor) -> dict[str, Any]:
        model = self.model
        if self.preprocess:
            pictures = _preprocessed(pictures, model.data_preprocessor)
        if self.kind == "backbone":
            maps = getattr(model, "backbone", model)(pictures)
            return {"maps": list(maps) if isinstance(maps, Sequence) else [maps]}
        maps = model.extract_feat(pictures)
        if self.kind == "proposals":
            return {"maps": list(maps), **_of_head(model.rpn_head, maps)}
        return _of_head(head_of(model), maps)

    def forward(self, pictures: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        """``sizes``: (B, 2) heights and widths of the real pictures, which lie in the top left corners."""
        with real_sizes(sizes, (pictures.shape[-2], pictures.shape[-1])):
            return tuple(_flat(self.named(pictures, sizes)))

    def macs(self, inputs: Sequence[Tensor]) -> int:
        """What it executes for these inputs."""
        return int(count_macs(self, lambda: self(*inputs)).total)

    def layout(self, pictures: Tensor) -> Layout:
        with torch.no_grad(), real_sizes(None):
            return Layout.of(self.named(pictures))


def kind_of(model: nn.Module) -> str:
    """What a model is: "proposals" (a two-stage detector), "detector", "segmenter" or "classifier"."""
    if getattr(model, "roi_head", None) is not None and getattr(model, "rpn_head", None) is not None:
        return "proposals"
    if callable(getattr(model, "encode_decode", None)) and isinstance(head_of(model), nn.Module):
        return "segmenter"
    if callable(getattr(model, "extract_feat", None)) and isinstance(head := head_of(model), nn.Module):
        if hasattr(model, "bbox_head") and not hasattr(model, "encoder") and hasattr(head, "predict_by_feat"):
            return "detector"
        if getattr(model, "head", None) is head:
            return "classifier"
    raise ValueError(
        f"A {type(model).__name__} cannot be exported whole: it is no dense detector, two-stage detector, segmenter "
        "or classifier of one head. Export its backbone with --part backbone"
    )


def head_of(model: nn.Module) -> nn.Module | None:
    """The head whose results are exported."""
    found = (getattr(model, name, None) for name in ("bbox_head", "decode_head", "head"))
    return next((head for head in found if head is not None), None)


def _of_head(head: nn.Module, maps: Any) -> dict[str, Any]:
    """What a head gives, by the names that its own post-processing has for it."""
    results = head(maps)
    results = list(results) if isinstance(results, tuple) else [results]
    wanted = getattr(head, "predict_by_feat", None)
    names = list(inspect.signature(wanted).parameters) if wanted is not None else ["cls_score"]
    return dict(zip(names, results, strict=False))


def _flat(named: Any) -> Iterator[Tensor]:
    if isinstance(named, Tensor):
        yield named
    else:
        for part in named.values() if isinstance(named, dict) else named:
            yield from _flat(part)


def _preprocessed(pictures: Tensor, preprocessor: nn.Module) -> Tensor:
    if getattr(preprocessor, "_channel_conversion", getattr(preprocessor, "channel_conversion", False)):
        pictures = pictures.flip(1)
    if hasattr(preprocessor, "mean"):
        pictures = (pictures - preprocessor.mean) / preprocessor.std
    return pictures
