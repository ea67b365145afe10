"""Who teaches: a student's twin, its own weights, or another network."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmsparse.apis import pop_aux
from mmsparse.checkpoints import check_checkpoint, load_weights
from mmsparse.configs import read_config, without_pretrained

Teacher = str | dict[str, Any]


def check_teacher(teacher: Teacher, checkpoint: str | None) -> None:
    if not (isinstance(teacher, str) or (isinstance(teacher, dict) and "type" in teacher)):
        raise TypeError(
            "TeacherHook: expected argument `teacher` to be 'twin', 'self', a config file or a model's config dict "
            f"with the key 'type', but got {teacher!r}"
        )
    if teacher == "self" and checkpoint is not None:
        raise ValueError(
            f"TeacherHook: argument `checkpoint`: with teacher='self' the student's own weights teach, but got "
            f"{checkpoint!r}. Remove it, or use teacher='twin'"
        )
    if teacher not in ("twin", "self"):
        if isinstance(teacher, str):
            _check_config(teacher)
        if checkpoint is None:
            raise ValueError(
                f"TeacherHook: the teacher {teacher if isinstance(teacher, str) else teacher['type']!r} has no "
                "weights; name its `checkpoint`"
            )
    if checkpoint is not None:
        check_checkpoint(checkpoint)


def _check_config(path: str) -> None:
    reason = ""
    if "::" in path:
        try:
            read_config(path)
        except Exception as error:  # mmengine has no error of its own for a name that it does not find
            reason = f" ({' '.join(str(error).split())})"
    if reason or not ("::" in path or Path(path).is_file()):
        raise ValueError(
            "TeacherHook: expected argument `teacher` to be 'twin', 'self', a config file or lib::config, but got "
            f"{path!r}{reason}"
        )


def teacher_of(student: nn.ModuleDict, teacher: Teacher, checkpoint: str | None) -> nn.ModuleDict:
    """The same parts of the network that teaches, frozen; the student's own stay as they are."""
    if teacher == "self":
        return student
    if teacher == "twin":
        pop_aux(student)  # what waits there has a graph and cannot be copied
        parts = copy.deepcopy(student)
    else:
        parts = parts_of(_build(teacher), list(student), "argument `teacher`")
    if checkpoint is not None:
        load_weights(parts, checkpoint)
    return parts.requires_grad_(False).to(next(student.parameters()).device)


def parts_of(model: nn.Module, names: Sequence[str], owner: str) -> nn.ModuleDict:
    """Parts of a model under their names, so that keys of checkpoints stay; nothing is registered or copied."""
    absent = [name for name in names if not isinstance(getattr(model, name, None), nn.Module)]
    if absent:
        raise ValueError(f"TeacherHook: {owner}: {type(model).__name__} has no {absent[0]!r}, which the student needs")
    return nn.ModuleDict({name: getattr(model, name) for name in names})


def _build(teacher: Teacher) -> nn.Module:
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
