"""Two stages of one training: the predictors learn the attention, then the network learns to live with their choice."""

from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from mmsparse.calls import Call, call_of, unwrapped
from mmsparse.engine import Collecting, LossHook
from mmsparse.registry import HOOKS

from .sparsifiner_vit import Connectivity


@HOOKS.register_module()
class ConnectivityHook(LossHook):
    """Trains a :class:`SparsifinerViT`, under any head.

    In the first stage its predictors learn to guess its own attention by ``loss_connectivity`` and all else rests; in
    the second they rest, and all else learns with the attention that they leave. What rests has gradients of zero
    (so that DDP needs no setting), and its optimizer step is left out, weight decay and moments included.

    Args:
        reconstruct: Fraction of the training that is the first stage (released: 5 of 50 epochs). 0 has only the
            second, for predictors that are trained already.
        loss_weight: Of the squared error, summed over heads, queries and keys and averaged over pictures and blocks.
            The released code sums over pictures, too, at a weight of 0.01 and 168 pictures a GPU.
    """

    name = "loss_connectivity"
    priority = "LOW"  # behind the hooks that add losses, which are held back in the first stage

    def __init__(self, reconstruct: float = 0.1, loss_weight: float = 1.68) -> None:
        super().__init__(loss_weight=loss_weight)
        if isinstance(reconstruct, bool) or not isinstance(reconstruct, int | float) or not 0.0 <= reconstruct <= 1.0:
            raise ValueError(
                "ConnectivityHook: expected argument `reconstruct` to be a fraction of the training in [0, 1], but got "
                f"{reconstruct!r}"
            )
        self.reconstruct = reconstruct

    def before_train(self, runner: Runner) -> None:
        if not hasattr(runner.optim_wrapper, "optimizer"):
            raise ValueError("ConnectivityHook: expected one optimizer, but this training has several. Use one")
        self.attach(unwrapped(runner.model), runner.optim_wrapper.optimizer)

    def attach(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Add to the losses of a model, and hold steps back."""
        super().attach(model)
        self._handles.append(optimizer.register_step_pre_hook(self._hold))

    def watch(self, model: nn.Module) -> list[Any]:
        self._parts = _parts_of(model)
        mine = {id(parameter) for part in self._parts for parameter in part.parameters()}
        self._groups = [[p for p in model.parameters() if (id(p) in mine) == new] for new in (False, True)]
        return [Collecting(self._parts), model.register_forward_hook(self._hold_losses, with_kwargs=True)]

    def take(self, model: nn.Module) -> list[Tensor]:
        return [error for part in self._parts for error in part.pop_errors()]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        super().before_train_iter(runner, batch_idx, data_batch)
        self.set_progress(runner.iter / runner.max_iters)

    def set_progress(self, progress: float) -> None:
        """How much of the training is over, from 0 to 1."""
        for part in self._parts:
            part.reconstructing = progress < self.reconstruct

    @property
    def _reconstructing(self) -> bool:
        return self._parts[0].reconstructing

    def _hold(self, optimizer: Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
        """Without a gradient, a parameter is not stepped at all."""
        for parameter in self._groups[0 if self._reconstructing else 1]:
            parameter.grad = None

    def _hold_losses(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> dict | None:
        """In the first stage, what other hooks have added included."""
        if call_of(args, kwargs).mode != "loss" or not torch.is_grad_enabled() or not self._reconstructing:
            return None
        return {name: _times_zero(value) if "loss" in name else value for name, value in output.items()}

    def losses(self, model: nn.Module, call: Call, errors: list[Tensor]) -> dict[str, Tensor]:
        if not self._reconstructing:
            return {self.name: 0.0 * sum(p.sum() for p in self._groups[1])}
        if not errors:
            raise RuntimeError(
                "ConnectivityHook: no predictor was asked in a training step. Are all keep ratios of `connectivity` 1?"
            )
        return {self.name: self.loss_weight * sum(errors) / len(errors)}


def _times_zero(loss: Tensor | list[Tensor]) -> Any:
    return [_times_zero(part) for part in loss] if isinstance(loss, list | tuple) else 0.0 * loss


def _parts_of(model: nn.Module) -> list[Connectivity]:
    parts = [module for module in model.modules() if isinstance(module, Connectivity)]
    if not parts:
        raise ValueError(
            f"ConnectivityHook: {type(model).__name__} has no predictors. Give its backbone "
            "type='mmsparse.SparsifinerViT' and connectivity=dict(keep_ratio=0.25), or remove the hook"
        )
    return parts
