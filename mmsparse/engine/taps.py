"""What two networks are compared by: where features are read, and how a network is asked densely."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmsparse.apis import dense_twin


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


def check_fit(student: nn.ModuleDict, teacher: nn.ModuleDict, taps: Sequence[Tap], where: str) -> None:
    """Show both a blank picture, so that what does not fit is said before training begins."""
    first = next(m for m in student["backbone"].modules() if isinstance(m, nn.Conv2d))
    picture = first.weight.new_zeros(1, first.in_channels, 128, 128)
    (mine, my_logits), (theirs, logits) = (
        look(parts, at, picture) for parts, at in zip((student, teacher), taps, strict=True)
    )
    pairs = [*zip(mine, theirs, strict=True), *([] if logits is None else [(my_logits, logits)])]
    for one, other in pairs:
        if one.shape != other.shape:
            raise ValueError(
                f"TeacherHook: argument `teacher` does not fit the student: for a picture of 128x128 the student "
                f"gives {_say(one)}, the teacher {_say(other)} ({where}). Take a teacher of the same widths, strides "
                "and classes, or other levels"
            )


def _say(output: Tensor) -> str:
    return (
        f"{output.shape[1]} positions x {output.shape[2]} channels"
        if output.dim() == 3
        else f"{output.shape[1]} logits"
    )


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
