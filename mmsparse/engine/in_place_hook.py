"""A routed network and its dense one in a step: everything kept learns the labels, and teaches what is routed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmsparse.analysis.wanted import dense_head
from mmsparse.apis import dense_twin, find_deciders, find_routers
from mmsparse.calls import Call
from mmsparse.registry import HOOKS
from mmsparse.sparsity.losses import detection_distillation, pixel_distillation

from .loss_hook import LossHook


@HOOKS.register_module()
class InPlaceHook(LossHook):
    """Adds ``loss_dense``, the losses of the same weights with everything kept, and ``loss_distill_head``, by which the
    predictions of that pass teach those of the routed one. For detectors with a dense head, and segmenters.

    Without it the dense network is forgotten while the routed one learns, and with it what the routed one could learn
    from. A step takes about as long as one of each. Beside SparsityHook, in any order; with teacher='self' of
    TeacherHook features are compared besides.

    Args:
        dense_weight: Weight of the losses with everything kept; 0 only lets it teach.
        head_weight: Weight of the distillation of predictions.
    """

    name = "loss_in_place"

    def __init__(self, dense_weight: float = 1.0, head_weight: float = 1.0) -> None:
        super().__init__(dense_weight=dense_weight, head_weight=head_weight)

    def watch(self, model: nn.Module) -> list[Any]:
        if not find_deciders(model):
            raise ValueError(
                f"InPlaceHook: {type(model).__name__} has no dynamic part, so it is the dense network already. Remove "
                "the hook, or give a part `sparsity`"
            )
        head = dense_head(model)
        self._distil = pixel_distillation if head is None else detection_distillation
        head = getattr(model, "decode_head", None) if head is None else head
        if head is None:
            raise ValueError(
                f"InPlaceHook: {type(model).__name__} has neither a dense head with levels nor a decode_head. Use "
                "TeacherHook(teacher='self'), which compares features"
            )
        return [head.register_forward_hook(self._see)]

    def _see(self, head: nn.Module, args: tuple, output: Any) -> None:
        if head.training:
            self.seen.append(output)

    def losses(self, model: nn.Module, call: Call, seen: list[Any]) -> dict[str, Tensor]:
        if not seen:
            return {}
        with torch.set_grad_enabled(self.dense_weight > 0), _resting(model), dense_twin(model):
            dense = model.loss(call.inputs, call.samples)
        (taught,) = self.take(model)
        with torch.autocast(device_type=call.inputs.device.type, enabled=False):
            losses = {"loss_distill_head": self.head_weight * self._distil(seen[-1], taught)}
        if self.dense_weight:
            losses["loss_dense"] = self.dense_weight * sum(_tensors(v for k, v in dense.items() if "loss" in k))
        return losses


@contextmanager
def _resting(model: nn.Module) -> Iterator[None]:
    """Inside a with-block nothing that is routed decides or learns to, as in evaluation; all else trains on."""
    parts = [part for router in find_routers(model).values() for part in router.modules()]
    were = [(part, part.training) for part in parts]
    try:
        for part in parts:
            part.training = False
        yield
    finally:
        for part, training in were:
            part.training = training


def _tensors(losses: Any) -> Iterator[Tensor]:
    for loss in losses:
        yield from (loss.mean(),) if isinstance(loss, Tensor) else (part.mean() for part in loss)
