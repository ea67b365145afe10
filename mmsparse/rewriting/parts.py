"""The parts of a dense config, and which necks and heads of it can be routed, under which names."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from torch.overrides import TorchFunctionMode

from mmsparse.mistakes import OURS, is_mistake, raised_by

from .families import ROUTED, Family, Part

# Auxiliary heads stay dense. An encoder that a detector has itself is its class's: "".
KEYS = {
    "neck": ("neck",),
    "head": (
        *("rpn_head", "bbox_head", "mask_head", "decode_head", ""),
        *("roi_head.bbox_head", "roi_head.mask_head", "roi_head.grid_head"),
        *("panoptic_head.pixel_decoder", "track_head.pixel_decoder", "decode_head.pixel_decoder"),
        "decode_head.kernel_generate_head",
    ),
}


def kind_name(kind: Any) -> str:
    """'Class', 'scope.Class', or the same of a class that a new-style config imported."""
    return f"{kind.__module__.split('.')[0]}.{kind.__name__}" if isinstance(kind, type) else str(kind)


def scoped_kind(cfg: ConfigDict, scope: str | None) -> str:
    """The name of a part's class with the scope it is looked up in."""
    kind, scope = kind_name(cfg.get("type")), cfg.get("_scope_", scope)
    return kind if "." in kind or scope is None else f"{scope}.{kind}"


def route_parts(model: ConfigDict, which: str, scope: str | None, sparsity: Mapping[str, Any]) -> None:
    """Make the ``neck`` or the heads (``head``) of a model's config dynamic, or say in a sentence why not."""
    found = list(_parts(model, which, scope))
    fitting = [part for part in found if part.kind in ROUTED[which]]
    if not fitting:
        what = ", ".join(f"{part.path} is {part.kind}" for part in found) or f"the model has no {which}"
        raise ValueError(f"sparsify: argument `{which}`: {what}. Supported are {', '.join(ROUTED[which])}")
    refusals = []
    for part in fitting:
        try:
            make_dynamic(part, ROUTED[which][part.kind], sparsity, scope)
        except ValueError as error:
            refusals.append(error)
    if len(refusals) == len(fitting):
        raise refusals[0]
    for error in refusals:
        print_log(f"One of several heads stays dense. {error}", "current")


def make_dynamic(part: Part, family: Family, sparsity: Mapping[str, Any], scope: str | None) -> None:
    """Make a part of a config the routed class of its family, or say why not and leave it as it is."""
    name, translate = family
    before = copy.deepcopy(part.cfg), dict(part.parent)  # other parts of the parent are in hand, too
    try:
        part.cfg.sparsity = dict(sparsity)
        part.cfg.type = f"mmsparse.{translate(part) or name}"
        check_part(part.cfg, part.path, scope)
    except (TypeError, ValueError):
        for cfg, old in zip((part.cfg, part.parent), before, strict=True):
            cfg.clear()
            cfg.update(old)
        raise


def check_part(cfg: ConfigDict, path: str, scope: str | None) -> None:
    """Build a part without its weights, so that mistakes surface now and in the words of its class."""
    from mmsparse.registry import MODELS

    try:
        with DefaultScope.overwrite_default_scope(scope), _WithoutWeights():
            MODELS.build(copy.deepcopy(cfg))
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        checked = is_mistake(error) or raised_by(error) not in (None, *OURS)  # by us, or by a stock class or registry
        if not checked:
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"sparsify: {path}: {error}") from error


class _WithoutWeights(TorchFunctionMode):
    """Parameters are on the meta device and cost nothing; ``torch.device("meta")`` alone would also take the numbers
    that stock constructors compute with tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def parts_to_route(model: ConfigDict, scope: str | None) -> dict[str, bool]:
    """Whether ``neck`` and ``head`` of a model's config can be routed."""
    return {which: any(part.kind in ROUTED[which] for part in _parts(model, which, scope)) for which in KEYS}


def _parts(model: ConfigDict, which: str, scope: str | None) -> Iterator[Part]:
    scope = model.get("_scope_", scope)
    for path in KEYS[which]:
        if not path:
            yield Part("model", scoped_kind(model, scope), model, {})
            continue
        outer, _, key = path.rpartition(".")
        holder = model.get(outer) if outer else model
        value = holder.get(key) if isinstance(holder, dict) else None
        for index, cfg in enumerate(value if isinstance(value, list | tuple) else [value]):
            if isinstance(cfg, dict):
                where = f"model.{path}" if value is cfg else f"model.{path}.{index}"
                yield Part(where, scoped_kind(cfg, scope), cfg, holder)
