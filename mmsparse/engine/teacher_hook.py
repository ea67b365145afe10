"""A dense teacher beside the student: its features and logits become two losses more, and nothing of it is saved."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.runner import Runner
from mmengine.runner.checkpoint import weights_to_cpu
from torch import Tensor, nn

from mmsparse.apis import find_deciders
from mmsparse.calls import Call, unwrapped
from mmsparse.models.backbones.block_router import BlockRouter
from mmsparse.registry import HOOKS
from mmsparse.sparsity import Decider
from mmsparse.sparsity.losses import feature_distillation, logit_distillation

from .loss_hook import LossHook
from .taps import check_fit, look, tap
from .teacher import Teacher, check_teacher, is_classifier, parts_of, teacher_of

SAVED = "teacher_state_dict"  # a checkpoint's key


@HOOKS.register_module()
class TeacherHook(LossHook):
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

    name = "loss_distill"

    def __init__(
        self,
        teacher: Teacher = "twin",
        checkpoint: str | None = None,
        feature_weight: float = 0.5,
        logit_weight: float = 0.5,
        levels: Sequence[int] = (-1,),
        module: str = "backbone",
    ) -> None:
        check_teacher(teacher, checkpoint)
        if not isinstance(levels, Sequence) or not levels or not all(type(level) is int for level in levels):
            raise TypeError(
                f"TeacherHook: expected argument `levels` to be whole numbers such as (-1,), but got {levels!r}"
            )
        if module.split(".")[0] not in ("backbone", "neck"):
            raise ValueError(
                f"TeacherHook: expected argument `module` to begin with 'backbone' or 'neck', but got {module!r}"
            )
        super().__init__(feature_weight=feature_weight, logit_weight=logit_weight)
        self.teacher = teacher
        self.checkpoint = checkpoint
        self.levels = tuple(levels)
        self.module = module
        self.parts: nn.ModuleDict | None = None  # the teacher
        self._resumed: dict[str, Tensor] | None = None

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
        super().before_train(runner)
        if resumed:
            self.parts.load_state_dict(weights)

    def check(self, model: nn.Module) -> None:
        self._names(model)  # a teacher is built once

    def watch(self, model: nn.Module) -> list[Any]:
        names = self._names(model)
        student = parts_of(model, names, "the model")
        self.parts = teacher_of(student, self.teacher, self.checkpoint)
        self._taps = [tap(parts, self.module, self.levels) for parts in (student, self.parts)]
        check_fit(student, self.parts, self._taps, f"{self.module}, levels {self.levels}")
        self._droppers = _that_drop(model.backbone)
        watched = [self._taps[0].module, *self._droppers, *([model.head] if "head" in names else [])]
        handles = [module.register_forward_hook(self._see) for module in watched]
        return [model.backbone.register_forward_pre_hook(self._begin), *handles]

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

    def _begin(self, backbone: nn.Module, args: tuple) -> None:
        if backbone.training:  # the teacher's own look is none
            self.seen.append({"pictures": args[0]})

    def _see(self, module: nn.Module, args: tuple, output: Any) -> None:
        """What a module gave, beside the pictures that the backbone was given."""
        if self.seen:
            self.seen[-1][module] = output

    def losses(self, model: nn.Module, call: Call, seen: list[dict[Any, Any]]) -> dict[str, Tensor]:
        if not seen:
            return {}
        last, losses = seen[-1], {}
        features, logits = look(self.parts, self._taps[1], last["pictures"])
        mine = self._taps[0].read(last[self._taps[0].module])
        selections = [last[decider] for decider in self._droppers if last.get(decider) is not None]
        survivors = selections[-1].keep_mask if selections else None  # (B, N)
        with torch.autocast(device_type=features[0].device.type, enabled=False):
            if self.feature_weight:
                terms = [_feature_loss(*pair, survivors) for pair in zip(mine, features, strict=True)]
                losses["loss_distill_feat"] = self.feature_weight * sum(terms) / len(terms)
            if logits is not None:
                losses["loss_distill_cls"] = self.logit_weight * logit_distillation(last[model.head], logits)
        return losses


def _feature_loss(mine: Tensor, theirs: Tensor, survivors: Tensor | None) -> Tensor:
    if survivors is not None and survivors.shape[1] != mine.shape[1]:
        survivors = None  # a vector for the whole picture
    return feature_distillation(mine, theirs, survivors)


def _that_drop(backbone: nn.Module) -> list[Decider]:
    """The decisions of a backbone whose dropped tokens never return."""
    cumulative = any(module.cumulative for module in backbone.modules() if isinstance(module, BlockRouter))
    return find_deciders(backbone) if cumulative else []


def _has_source(runner: Runner, model: nn.Module) -> bool:
    """Whether the weights that training starts from were trained before."""
    inits = [getattr(module, "init_cfg", None) for module in model.modules()]
    return bool(runner._load_from) or any(isinstance(i, dict) and i.get("type") == "Pretrained" for i in inits)
