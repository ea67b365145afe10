"""The parts of a dense config, and which necks and heads of it can be routed, under which names."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch.overrides import TorchFunctionMode

from mmsparse.mistakes import OURS, is_mistake, raised_by

KEYS = {"neck": ("neck",), "head": ("rpn_head", "bbox_head", "decode_head")}  # RoI and auxiliary heads stay dense


@dataclass(frozen=True)
class Part:
    """A backbone, neck or head of a config: where it is, what it is, and the model that holds it."""

    path: str
    kind: str  # the scoped class name
    cfg: ConfigDict
    parent: ConfigDict


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
    fitting = [part for part in found if part.kind in SUPPORTED[which]]
    if not fitting:
        what = ", ".join(f"{part.path} is {part.kind}" for part in found) or f"the model has no {which}"
        raise ValueError(f"sparsify: argument `{which}`: {what}. Supported are {', '.join(SUPPORTED[which])}")
    for part in fitting:
        if part.kind == "mmseg.FPN":
            _check_mmseg_fpn(part)
        part.cfg.type = f"mmsparse.{SUPPORTED[which][part.kind]}"
        part.cfg.sparsity = dict(sparsity)
        check_part(part.cfg, part.path, scope)


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
    return {which: any(p.kind in known for p in _parts(model, which, scope)) for which, known in SUPPORTED.items()}


def _parts(model: ConfigDict, which: str, scope: str | None) -> Iterator[Part]:
    scope = model.get("_scope_", scope)
    for key in KEYS[which]:
        value = model.get(key)
        for index, cfg in enumerate(value if isinstance(value, list | tuple) else [value]):
            if isinstance(cfg, dict):
                path = f"model.{key}" if value is cfg else f"model.{key}.{index}"
                yield Part(path, scoped_kind(cfg, scope), cfg, model)


def _check_mmseg_fpn(part: Part) -> None:
    """mmdet's class, which ours extends, means something else by these arguments."""
    part.cfg.pop("extra_convs_on_inputs", None)
    for name, same in (("end_level", -1), ("add_extra_convs", False)):
        if part.cfg.get(name, same) != same:
            raise ValueError(
                f"sparsify: argument `neck`: {part.path} is mmseg.FPN with {name}={part.cfg[name]}, which means "
                "something else to mmsparse.DynamicFPN (mmdet's). Write the neck by hand"
            )


SUPPORTED = {
    "neck": {
        "mmdet.FPN": "DynamicFPN",
        "mmdet.PAFPN": "DynamicPAFPN",
        "mmdet.ChannelMapper": "DynamicChannelMapper",
        "mmseg.FPN": "DynamicFPN",
    },
    "head": {
        "mmdet.RPNHead": "DynamicRPNHead",
        "mmdet.RetinaHead": "DynamicRetinaHead",
        "mmdet.FCOSHead": "DynamicFCOSHead",
        "mmdet.ATSSHead": "DynamicATSSHead",
        "mmdet.GFLHead": "DynamicGFLHead",
        "mmseg.UPerHead": "DynamicUPerHead",
        "mmseg.FPNHead": "DynamicFPNHead",
    },
}
