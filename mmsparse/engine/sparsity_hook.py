"""Puts the ratio loss and the measured keep ratios into any model's loss dict, and runs the budget's schedule."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmsparse.apis import find_deciders, pop_aux
from mmsparse.calls import batch_of, ignore_padding, mode_of, unwrapped
from mmsparse.registry import HOOKS
from mmsparse.sparsity import Aux, ratio_loss, score_loss

from .optim_constructor import check_length
from .score_targets import score_targets
from .thresholds import AveragedThresholdsHook, find_thresholds, share_thresholds


@HOOKS.register_module()
class SparsityHook(Hook):
    """The one line that a config needs besides ``sparsity``.

    It adds a stateless forward hook to the model itself, so no detector is subclassed, no wrapper changes the
    checkpoint's keys, and gradients are reduced as always under DDP. In training and evaluation the padding of batches
    is ignored (``mmsparse.ignore_padding``).

    Args:
        loss_weight: Weight of the ratio loss (the paper: 10 for ConvNeXt and Swin, 2 for ViT).
        per_image: Hold every image to the budget, as the paper does; False holds the batch to it.
        anneal: Fractions of the training between which keep ratios fall from 1.0 to their budget and the noise of
            exact-count selectors falls to zero. None trains at the budget from the first step, as the paper does
            (which starts from a trained dense network).
        score_weight: Weight of the scores' supervision by the labels: object boxes, or edges of the label map. Not
            in the paper; it teaches scorers where to look in short trainings, when the gates' own gradient is weak.
    """

    priority = "NORMAL"

    def __init__(
        self,
        loss_weight: float = 10.0,
        per_image: bool = True,
        anneal: tuple[float, float] | None = (0.0, 0.5),
        score_weight: float = 0.0,
    ) -> None:
        check_loss_weights("SparsityHook", loss_weight=loss_weight, score_weight=score_weight)
        pair = isinstance(anneal, Sequence) and len(anneal) == 2
        if anneal is not None and not (pair and 0.0 <= anneal[0] <= anneal[1] <= 1.0):
            raise ValueError(
                f"SparsityHook: expected argument `anneal` to be None or (begin, end) with 0 <= begin <= end <= 1, "
                f"but got {anneal}"
            )
        self.loss_weight = loss_weight
        self.per_image = per_image
        self.score_weight = score_weight
        self.anneal = anneal

    def before_run(self, runner: Runner) -> None:
        brought = any(isinstance(hook, AveragedThresholdsHook) for hook in runner.hooks)
        if find_thresholds(runner.model) and not brought:
            runner.register_hook(AveragedThresholdsHook())

    def before_train(self, runner: Runner) -> None:
        check_length(runner.optim_wrapper, runner.max_epochs, runner.max_iters)
        self.attach(unwrapped(runner.model))

    def attach(self, model: nn.Module) -> None:
        """Collect from a model whose ``forward(..., mode='loss')`` returns a dict of losses."""
        decisions = find_deciders(model)
        if not decisions:
            raise ValueError(
                f"SparsityHook: {type(model).__name__} has no dynamic part. Give its backbone "
                "type='mmsparse.DynamicConvNeXt' and sparsity=dict(keep_ratio=0.7), or remove the hook."
            )
        if any(decision.collected for decision in decisions):
            raise RuntimeError(
                "SparsityHook: another one collects from this model already. Keep one, or build the model anew"
            )
        frozen = [decision.name for decision in decisions if _is_frozen(decision.scorer)]
        if frozen:
            warnings.warn(
                f"SparsityHook: the scorers of the places {frozen} are frozen with their stages and learn nothing; "
                "they should have been trained before",
                stacklevel=2,
            )
        ignore_padding(model)
        self._handle = model.register_forward_hook(self._add_losses, with_kwargs=True)
        for decision in decisions:
            decision.collected = True

    def before_val(self, runner: Runner) -> None:
        if find_deciders(runner.model):
            ignore_padding(runner.model)

    before_test = before_val

    def after_train(self, runner: Runner) -> None:
        self._handle.remove()
        for decision in find_deciders(runner.model):
            decision.collected = False

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        progress = self.progress(runner.iter, runner.max_iters)
        for decision in find_deciders(runner.model):
            decision.progress = progress
            decision.pop_aux()  # what a forward outside of a training step has left

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        share_thresholds(runner.model)  # not in a forward: ranks may have different numbers of them

    def progress(self, iteration: int, max_iters: int) -> float:
        """How far the budget has come from all-dense (0) to its target (1); a function of the iteration alone."""
        if self.anneal is None:
            return 1.0
        begin, end = (fraction * max_iters for fraction in self.anneal)
        if iteration >= end:
            return 1.0
        return max(0.0, (iteration - begin) / (end - begin))

    def _add_losses(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> dict[str, Any] | None:
        decided = pop_aux(model)
        mode = mode_of(args, kwargs)
        learning = torch.is_grad_enabled() and any(decision.training for decision in find_deciders(model))
        if mode == "loss" and learning and not decided:
            raise RuntimeError(
                "SparsityHook: nothing was decided in a training step. If the config sets activation_checkpointing for "
                "the backbone, remove it there and set with_cp=True in the backbone"
            )
        if mode != "loss" or not decided:
            return None
        with torch.autocast(device_type=decided[0].scores.device.type, enabled=False):
            loss = sum(self._of_place(d) for d in decided) / len(decided)
        losses = {**output, "loss_sparsity": loss, **_measured(decided)}
        learning = [d for d in decided if d.scores.requires_grad]
        if self.score_weight and learning:
            inputs, samples = batch_of(args, kwargs)
            losses["loss_score"] = self.score_weight * self._supervise(learning, inputs.shape[-2:], samples)
        return losses

    def _of_place(self, decided: Aux) -> Tensor:
        if decided.regression is not None:  # its selector holds the count; a zero whose backward is the regression
            return decided.regression
        return self.loss_weight * ratio_loss(decided.selection.gate, decided.keep_ratio, self.per_image, decided.valid)

    def _supervise(self, decided: list[Aux], size: Sequence[int], samples: Sequence[Any]) -> Tensor:
        targets: dict[tuple, Tensor] = {}  # places of one stage share their cells
        loss = 0.0
        for d in decided:
            cells = d.selection.geometry
            if cells not in targets:
                targets[cells] = score_targets(samples, d.selection, size)
            loss = loss + score_loss(d.scores, targets[cells], d.valid)
        return loss / len(decided)


def check_loss_weights(hook: str, **weights: float) -> None:
    for name, weight in weights.items():
        if not isinstance(weight, int | float):
            raise TypeError(f"{hook}: expected argument `{name}` to be a number >= 0, but got {weight!r}")
        if weight < 0:
            raise ValueError(f"{hook}: expected argument `{name}` to be >= 0, but got {weight}")


def _is_frozen(scorer: nn.Module) -> bool:
    parameters = list(scorer.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _measured(decided: list) -> dict[str, Tensor]:
    """The keep ratio of each place; names without 'loss' are logged and not summed."""
    ratios: dict[str, list[Tensor]] = {}
    for d in decided:
        kept = d.selection.keep_mask if d.valid is None else d.selection.keep_mask[d.valid]
        ratios.setdefault(f"keep_ratio/{d.name}", []).append(kept.float().mean())
    return {name: torch.stack(values).mean() for name, values in ratios.items()}
