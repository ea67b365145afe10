"""Dense networks that teach: which parts of a model are run, where features are read, and how it is asked."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmsparse.apis import dense_twin
from mmsparse.configs import read_config, without_pretrained


@dataclass
class Tap:
    """Where features are read, and how they become rows (B, N, C)."""

    module: nn.Module
    levels: Sequence[int]
    extra: int = 0  # tokens that are no positions
    finish: Callable[[Tensor], Tensor] = field(default=lambda features: features)

    def read(self, output: Tensor | Sequence[Tensor]) -> list[Tensor]:
        maps = output if isinstance(output, list | tuple) else (output,)
        if any(not -len(maps) <= level < len(maps) for level in self.levels):
            raise ValueError(
                f"TeacherHook: argument `levels`: got {tuple(self.levels)}, but {type(self.module).__name__} gives "
                f"{len(maps)} output(s); allowed are {-len(maps)} to {len(maps) - 1}"
            )
        return [self._rows(self.finish(maps[level])) for level in self.levels]

    def _rows(self, features: Tensor) -> Tensor:
        if features.dim() == 4:
            return features.flatten(2).transpose(1, 2)
        return features[:, self.extra :] if features.dim() == 3 else features.unsqueeze(1)


def tap(parts: nn.ModuleDict, module: str, levels: tuple[int, ...]) -> Tap:
    """Where to read the outputs of a module; for a classifier's backbone that pools, the map before the pooling."""
    backbone = parts["backbone"]
    extra = getattr(backbone, "num_extra_tokens", 0)
    if module == "backbone" and levels == (-1,):
        if getattr(backbone, "gap_before_final_norm", False):
            return _before_pooling(backbone)
        if getattr(backbone, "out_type", "featmap") in ("cls_token", "avg_featmap") and backbone.final_norm:
            return Tap(backbone.ln1, levels, extra)
    try:
        return Tap(parts.get_submodule(module), levels, extra)
    except AttributeError as error:
        raise ValueError(f"TeacherHook: argument `module`: there is no {module!r} ({error})") from error


def _before_pooling(backbone: nn.Module) -> Tap:
    """ConvNeXt's last map, for a classifier that pools before the last norm."""
    last = max(backbone.out_indices)
    block = len(backbone.stages[last]) - 1
    router = getattr(backbone, "router", None)
    if router is not None and (last, block) in router.routed:
        raise ValueError(
            f"TeacherHook: the last block (stage {last}, block {block}) is routed, so the map before the pooling "
            "cannot be read. Set gap_before_final_norm=False in the backbone, or leave the last stage dense"
        )
    return Tap(backbone.stages[last][block], (-1,), finish=getattr(backbone, f"norm{last}"))


@torch.no_grad()
def look(parts: nn.ModuleDict, at: Tap, pictures: Tensor) -> tuple[list[Tensor], Tensor | None]:
    """Features and logits of the dense network."""
    seen: list[Any] = []
    handle = at.module.register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        with _evaluating(parts), dense_twin(parts):
            features = parts["backbone"](pictures)
            if "neck" in parts:
                features = parts["neck"](features)
            logits = parts["head"](features) if "head" in parts else None
            if not seen:
                raise ValueError(f"TeacherHook: argument `module`: {type(at.module).__name__} is not run by itself")
            return at.read(seen[-1]), logits
    finally:
        handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, then as it was. Not by ``eval()``: what a class does there is not undone."""
    were = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in were:
            module.training = False
        yield
    finally:
        for module, training in were:
            module.training = training


def parts_of(model: nn.Module, names: Sequence[str], owner: str) -> nn.ModuleDict:
    """Parts of a model under their names, so that keys of checkpoints stay; nothing is registered or copied."""
    absent = [name for name in names if not isinstance(getattr(model, name, None), nn.Module)]
    if absent:
        raise ValueError(f"TeacherHook: {owner}: {type(model).__name__} has no {absent[0]!r}, which the student needs")
    return nn.ModuleDict({name: getattr(model, name) for name in names})


def build_teacher(teacher: str | dict[str, Any]) -> nn.Module:
    scope = None
    if isinstance(teacher, str):
        cfg = read_config(teacher)
        teacher, scope = cfg.model, cfg.get("default_scope")
    teacher = copy.deepcopy(teacher)
    without_pretrained(teacher)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(teacher)


def is_classifier(model: nn.Module) -> bool:
    from mmpretrain.models import ImageClassifier

    return isinstance(model, ImageClassifier)
