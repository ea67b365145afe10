"""The base of the hooks that add losses to a model's own."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmsparse.calls import Call, call_of, unwrapped


class LossHook(Hook):
    """Adds entries to the dict of losses that a model's ``forward(..., mode='loss')`` returns.

    A forward hook on the model itself does it, from the beginning of a training to its end. So no model is subclassed,
    no wrapper changes the checkpoint's keys, other entries stay as they are, and gradients are reduced as always under
    DDP. What a subclass says:

    - ``name``: what its loss is called. One hook a model may have it; a child class has its parent's.
    - ``losses(model, call, seen)``: the entries to add; none is {}. It is asked behind each forward in mode 'loss' with
      gradients, and no other. mmengine sums the entries with 'loss' in their names and logs all.
    - ``watch(model)``: refuse a model that does not fit, and look inside of it. It returns handles, which are removed
      at the end: of forward hooks, which append what they see to ``self.seen``, or of anything else.
    - ``take(model)``: what was seen since the last forward, if it waits elsewhere than in ``self.seen``, as in the
      model. It is asked behind each forward of any mode, and before each step, so that nothing is left for another.

    Args:
        weights: Weights of its losses, numbers >= 0; they become attributes.
    """

    name: str

    def __init__(self, **weights: float) -> None:
        self.set_weights(**weights)
        self.seen: list[Any] = []
        self._handles: list[Any] = []

    def set_weights(self, **weights: float) -> None:
        for name, weight in weights.items():
            given = f"{type(self).__name__}: expected argument `{name}` to be"
            if not isinstance(weight, int | float):
                raise TypeError(f"{given} a number >= 0, but got {weight!r}")
            if weight < 0:
                raise ValueError(f"{given} >= 0, but got {weight}")
            setattr(self, name, weight)

    def losses(self, model: nn.Module, call: Call, seen: list[Any]) -> dict[str, Tensor]:
        raise NotImplementedError

    def watch(self, model: nn.Module) -> list[Any]:
        return []

    def take(self, model: nn.Module) -> list[Any]:
        seen, self.seen = self.seen, []
        return seen

    def attach(self, model: nn.Module) -> None:
        """Add to the losses of a model, which is in no wrapper; in a training ``before_train`` does this."""
        self.detach()
        for hook in model._forward_hooks.values():
            other = getattr(hook, "__self__", None)
            if isinstance(other, LossHook) and other.name == self.name:
                raise RuntimeError(
                    f"{type(self).__name__}: a {type(other).__name__} adds {self.name!r} to this model's losses "
                    "already. Keep one, or build the model anew"
                )
        self._handles = self.watch(model)
        self._handles.append(model.register_forward_hook(self._add_losses, with_kwargs=True))

    def check(self, model: nn.Module) -> None:
        """Refuse a model that does not fit, before there is a training; nothing stays on it."""
        for handle in self.watch(model):
            handle.remove()

    def detach(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def before_train(self, runner: Runner) -> None:
        self.attach(unwrapped(runner.model))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.take(unwrapped(runner.model))

    def after_train(self, runner: Runner) -> None:
        self.detach()

    def _add_losses(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> dict[str, Any] | None:
        call, seen = call_of(args, kwargs), self.take(model)
        if call.mode != "loss" or not torch.is_grad_enabled():
            return None
        return {**output, **self.losses(model, call, seen)}


class Collecting:
    """A handle of parts in which something waits for a hook: as long as it is there, they do not complain."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        self.parts = parts
        for part in parts:
            part.collected = True

    def remove(self) -> None:
        for part in self.parts:
            part.collected = False
