"""A dense teacher beside the student: its features and logits become two losses more, and nothing of it is saved."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import weights_to_cpu
from torch import Tensor, nn

from mmsparse.apis import find_deciders, pop_aux
from mmsparse.calls import mode_of, unwrapped
from mmsparse.checkpoints import check_checkpoint, load_weights
from mmsparse.configs import read_config
from mmsparse.models.backbones.block_router import BlockRouter
from mmsparse.registry import HOOKS
from mmsparse.sparsity import Decider, Selection
from mmsparse.sparsity.losses import feature_distillation, logit_distillation

from .sparsity_hook import check_loss_weights
from .teacher import build_teacher, is_classifier, look, parts_of, tap

SAVED = "teacher_state_dict"  # a checkpoint's key


@HOOKS.register_module()
class TeacherHook(Hook):
    """Adds ``loss_distill_feat`` and, for mmpretrain's classifiers, ``loss_distill_cls`` to a model's losses.

    The teacher is no part of the model: not of its state dict, its EMA or its optimizer. It sees the pictures that the
    student's backbone sees, in evaluation mode and with everything kept. One a model, beside SparsityHook in any order.

    Args:
        teacher: Who teaches.

            - 'twin': the student's own dense network, frozen. Its weights are those of ``checkpoint``, or else those
              that training starts from (the paper's recipe); these are kept in the training's checkpoints under
              'teacher_state_dict', so that a resumed student has the same teacher.
            - 'self': the student's present weights at keep ratio 1.0. Nothing is copied.
            - A config file, ``lib::config``, or the config dict of a model: another network, with ``checkpoint``.
        checkpoint: Weights of the teacher.
        feature_weight: Weight of the mean squared error between the features (the paper: 0.5).
        logit_weight: Weight of the divergence between a classifier's predictions (the paper: 0.5).
        levels: Which outputs of ``module`` are compared, from the last if negative.
        module: Whose outputs: a path inside the model that begins with 'backbone' or 'neck'. For a classifier whose
            backbone gives one vector a picture, the last normed features of all positions are compared, as in the
            paper; where a backbone drops tokens for good, only those that survive.
    """

    priority = "NORMAL"

    def __init__(
        self,
        teacher: str | dict[str, Any] = "twin",
        checkpoint: str | None = None,
        feature_weight: float = 0.5,
        logit_weight: float = 0.5,
        levels: Sequence[int] = (-1,),
        module: str = "backbone",
    ) -> None:
        _check(teacher, checkpoint, levels, module)
        check_loss_weights("TeacherHook", feature_weight=feature_weight, logit_weight=logit_weight)
        self.teacher = teacher
        self.checkpoint = checkpoint
        self.feature_weight = feature_weight
        self.logit_weight = logit_weight
        self.levels = tuple(levels)
        self.module = module
        self.parts: nn.ModuleDict | None = None  # the teacher
        self._handles: list[Any] = []
        self._resumed: dict[str, Tensor] | None = None
        self._seen: _Seen | None = None

    @property
    def in_checkpoints(self) -> bool:
        """Whether the teacher exists nowhere but in this training."""
        return self.teacher == "twin" and self.checkpoint is None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        self._resumed = checkpoint.get(SAVED)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if self.in_checkpoints and self.parts is not None:
            checkpoint[SAVED] = weights_to_cpu(self.parts.state_dict())

    def before_train(self, runner: Runner) -> None:
        weights, self._resumed = self._resumed, None
        resumed = self.in_checkpoints and runner.iter > 0
        if resumed and weights is None:
            raise ValueError(
                "TeacherHook: the checkpoint to resume from holds no teacher, so it was trained without one. Give the "
                "teacher's weights as `checkpoint`, or start a new training with load_from"
            )
        model = unwrapped(runner.model)
        if self.in_checkpoints and not resumed and not _has_source(runner, model):
            warnings.warn(
                "TeacherHook: the twin has random weights, because training starts from none. Give load_from, a "
                "pretrained init_cfg or the hook's `checkpoint`",
                stacklevel=2,
            )
        self.attach(model)
        if resumed:
            self.parts.load_state_dict(weights)

    def after_train(self, runner: Runner) -> None:
        self._detach()

    def attach(self, model: nn.Module) -> None:
        """Teach a model whose ``forward(..., mode='loss')`` returns a dict of losses."""
        self._detach()
        if any(isinstance(getattr(hook, "__self__", None), TeacherHook) for hook in model._forward_hooks.values()):
            raise RuntimeError("TeacherHook: another one teaches this model already. Keep one, or build the model anew")
        names = self._names(model)
        student = parts_of(model, names, "the model")
        self.parts = self._build(student)
        self._taps = [tap(parts, self.module, self.levels) for parts in (student, self.parts)]
        self._check_fit(student)
        backbone = model.backbone
        self._handles = [
            backbone.register_forward_pre_hook(self._begin),
            self._taps[0].module.register_forward_hook(self._see_features),
            *(d.register_forward_hook(self._see_selection) for d in _that_drop(backbone)),
            model.register_forward_hook(self._add_losses, with_kwargs=True),
        ]
        if "head" in names:
            self._handles.append(model.head.register_forward_hook(self._see_logits))

    def _detach(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _names(self, model: nn.Module) -> list[str]:
        """The parts of the model that are run."""
        if not isinstance(getattr(model, "backbone", None), nn.Module):
            parts = [name for name, _ in model.named_children()]
            raise ValueError(f"TeacherHook: {type(model).__name__} has no `backbone` to teach; its parts are {parts}")
        head = self.logit_weight > 0 and is_classifier(model)
        if not head and not self.feature_weight:
            raise ValueError(
                "TeacherHook: expected argument `feature_weight` to be positive, because there are no logits to compare"
                f" (logit_weight={self.logit_weight}, {type(model).__name__}), but got {self.feature_weight}"
            )
        neck = self.module.startswith("neck") or (head and getattr(model, "neck", None) is not None)
        return ["backbone", *(["neck"] if neck else []), *(["head"] if head else [])]

    def _build(self, student: nn.ModuleDict) -> nn.ModuleDict:
        if self.teacher == "self":
            return student
        if self.teacher == "twin":
            pop_aux(student)  # what waits there has a graph and cannot be copied
            parts = copy.deepcopy(student)
        else:
            parts = parts_of(build_teacher(self.teacher), list(student), "argument `teacher`")
        if self.checkpoint is not None:
            load_weights(parts, self.checkpoint)
        return parts.requires_grad_(False).to(next(student.parameters()).device)

    def _check_fit(self, student: nn.ModuleDict) -> None:
        """Show both a blank picture, so that what does not fit is said before training begins."""
        first = next(m for m in student["backbone"].modules() if isinstance(m, nn.Conv2d))
        picture = first.weight.new_zeros(1, first.in_channels, 128, 128)
        (mine, my_logits), (theirs, logits) = (
            look(parts, at, picture) for parts, at in zip((student, self.parts), self._taps, strict=True)
        )
        pairs = [*zip(mine, theirs, strict=True), *([] if logits is None else [(my_logits, logits)])]
        for one, other in pairs:
            if one.shape != other.shape:
                raise ValueError(
                    f"TeacherHook: argument `teacher` does not fit the student: for a picture of 128x128 the student "
                    f"gives {_say(one)}, the teacher {_say(other)} ({self.module}, levels {self.levels}). Take "
                    "a teacher of the same widths, strides and classes, or other levels"
                )

    def _begin(self, backbone: nn.Module, args: tuple) -> None:
        if backbone.training:  # the teacher's own look is none
            self._seen = _Seen(args[0])

    def _see_features(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self._seen is not None:
            self._seen.features = output

    def _see_selection(self, decision: Decider, args: tuple, selection: Selection | None) -> None:
        if self._seen is not None and selection is not None:
            self._seen.survivors = selection.keep_mask

    def _see_logits(self, head: nn.Module, args: tuple, logits: Tensor) -> None:
        if self._seen is not None:
            self._seen.logits = logits

    def _add_losses(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> dict[str, Any] | None:
        seen, self._seen = self._seen, None
        mode = mode_of(args, kwargs)
        if mode != "loss" or seen is None:
            return None
        features, logits = look(self.parts, self._taps[1], seen.pictures)
        mine = self._taps[0].read(seen.features)
        losses = dict(output)
        with torch.autocast(device_type=features[0].device.type, enabled=False):
            if self.feature_weight:
                terms = [_feature_loss(*pair, seen.survivors) for pair in zip(mine, features, strict=True)]
                losses["loss_distill_feat"] = self.feature_weight * sum(terms) / len(terms)
            if logits is not None:
                losses["loss_distill_cls"] = self.logit_weight * logit_distillation(seen.logits, logits)
        return losses


@dataclass
class _Seen:
    """What the student's last forward showed."""

    pictures: Tensor
    features: Any = None
    survivors: Tensor | None = None  # (B, N)
    logits: Tensor | None = None


def _say(output: Tensor) -> str:
    return (
        f"{output.shape[1]} positions x {output.shape[2]} channels"
        if output.dim() == 3
        else f"{output.shape[1]} logits"
    )


def _feature_loss(mine: Tensor, theirs: Tensor, survivors: Tensor | None) -> Tensor:
    if survivors is not None and survivors.shape[1] != mine.shape[1]:
        survivors = None  # a vector for the whole picture
    return feature_distillation(mine, theirs, survivors)


def _that_drop(backbone: nn.Module) -> list[Decider]:
    """The decisions of a backbone whose dropped tokens never return."""
    cumulative = any(module.cumulative for module in backbone.modules() if isinstance(module, BlockRouter))
    return find_deciders(backbone) if cumulative else []


def _check(teacher: Any, checkpoint: str | None, levels: Any, module: str) -> None:
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
    path = teacher if isinstance(teacher, str) and teacher not in ("twin", "self") else None
    if path is not None:
        _check_config(path)
    if teacher not in ("twin", "self") and checkpoint is None:
        raise ValueError(
            f"TeacherHook: the teacher {teacher if isinstance(teacher, str) else teacher['type']!r} has no weights; "
            "name its `checkpoint`"
        )
    if checkpoint is not None:
        check_checkpoint(checkpoint)
    if not isinstance(levels, Sequence) or not levels or not all(type(level) is int for level in levels):
        raise TypeError(
            f"TeacherHook: expected argument `levels` to be whole numbers such as (-1,), but got {levels!r}"
        )
    if module.split(".")[0] not in ("backbone", "neck"):
        raise ValueError(
            f"TeacherHook: expected argument `module` to begin with 'backbone' or 'neck', but got {module!r}"
        )


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


def _has_source(runner: Runner, model: nn.Module) -> bool:
    """Whether the weights that training starts from were trained before."""
    inits = [getattr(module, "init_cfg", None) for module in model.modules()]
    return bool(runner._load_from) or any(isinstance(i, dict) and i.get("type") == "Pretrained" for i in inits)
