"""Puts the ratio loss and the measured keep ratios into any model's loss dict, and runs the budget's schedule."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor, nn

from mmsparse.analysis.score_targets import ignored_label, score_targets
from mmsparse.apis import find_deciders, pop_aux
from mmsparse.calls import Call, ignore_padding
from mmsparse.registry import HOOKS
from mmsparse.sparsity import Aux, ratio_loss, score_loss

from .loss_hook import Collecting, LossHook
from .optim_constructor import check_length
from .thresholds import AveragedThresholdsHook, find_thresholds, share_thresholds


@HOOKS.register_module()
class SparsityHook(LossHook):
    """The one line that a config needs besides ``sparsity``.

    In training and evaluation the padding of batches is ignored (``mmsparse.ignore_padding``).

    Args:
        loss_weight: Weight of the ratio loss (the paper: 10 for ConvNeXt and Swin, 2 for ViT).
        per_image: Hold every image to the budget, as the paper does; False holds the batch to it.
        anneal: Fractions of the training between which keep ratios fall from 1.0 to their budget and the noise of
            exact-count selectors falls to zero. None trains at the budget from the first step, as the paper does
            (which starts from a trained dense network).
        score_weight: Weight of the scores' supervision by the labels: object boxes, or edges of the label map. Not
            in the paper; it teaches scorers where to look in short trainings, when the gates' own gradient is weak.
    """

    name = "loss_sparsity"

    def __init__(
        self,
        loss_weight: float = 10.0,
        per_image: bool = True,
        anneal: tuple[float, float] | None = (0.0, 0.5),
        score_weight: float = 0.0,
    ) -> None:
        super().__init__(loss_weight=loss_weight, score_weight=score_weight)
        pair = isinstance(anneal, Sequence) and len(anneal) == 2
        if anneal is not None and not (pair and 0.0 <= anneal[0] <= anneal[1] <= 1.0):
            raise ValueError(
                f"SparsityHook: expected argument `anneal` to be None or (begin, end) with 0 <= begin <= end <= 1, "
                f"but got {anneal}"
            )
        self.per_image = per_image
        self.anneal = anneal

    def before_run(self, runner: Runner) -> None:
        brought = any(isinstance(hook, AveragedThresholdsHook) for hook in runner.hooks)
        if find_thresholds(runner.model) and not brought:
            runner.register_hook(AveragedThresholdsHook())

    def before_train(self, runner: Runner) -> None:
        check_length(runner.optim_wrapper, runner.max_epochs, runner.max_iters)
        super().before_train(runner)

    def watch(self, model: nn.Module) -> list[Any]:
        decisions = find_deciders(model)
        if not decisions:
            raise ValueError(
                f"SparsityHook: {type(model).__name__} has no dynamic part. Give its backbone "
                "type='mmsparse.DynamicConvNeXt' and sparsity=dict(keep_ratio=0.7), or remove the hook."
            )
        frozen = [decider.name for decider in decisions if _is_frozen(decider.scorer)]
        if frozen:
            warnings.warn(
                f"SparsityHook: the scorers of the places {frozen} are frozen with their stages and learn nothing; "
                "they should have been trained before",
                stacklevel=2,
            )
        ignore_padding(model)
        return [Collecting(decisions)]

    def take(self, model: nn.Module) -> list[Aux]:
        return pop_aux(model)

    def before_val(self, runner: Runner) -> None:
        if find_deciders(runner.model):
            ignore_padding(runner.model)

    before_test = before_val

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        super().before_train_iter(runner, batch_idx, data_batch)
        progress = self.progress(runner.iter, runner.max_iters)
        for decider in find_deciders(runner.model):
            decider.progress = progress

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

    def losses(self, model: nn.Module, call: Call, aux: list[Aux]) -> dict[str, Tensor]:
        if not aux:
            if not any(decider.training and not decider.of_regions for decider in find_deciders(model)):
                return {}
            raise RuntimeError(
                "SparsityHook: nothing was decided in a training step. If the config sets activation_checkpointing for "
                "the backbone, remove it there and set with_cp=True in the backbone"
            )
        with torch.autocast(device_type=aux[0].scores.device.type, enabled=False):
            loss = sum(self._of_place(d) for d in aux) / len(aux)
        losses = {self.name: loss, **_measured(aux)}
        learning = [d for d in aux if d.scores.requires_grad and not d.selection.geometry.of_regions]
        if self.score_weight and learning:
            terms = self._supervise(learning, call.inputs.shape[-2:], call.samples, ignored_label(model))
            losses["loss_score"] = self.score_weight * terms
        return losses

    def _of_place(self, aux: Aux) -> Tensor:
        if aux.regression is not None:  # its selector holds the count; a zero whose backward is the regression
            return aux.regression
        return self.loss_weight * ratio_loss(aux.selection.gate, aux.keep_ratio, self.per_image, aux.valid)

    def _supervise(self, aux: list[Aux], size: Sequence[int], samples: Sequence[Any], ignored: int) -> Tensor:
        targets: dict[tuple, Tensor] = {}  # places of one stage share their cells
        loss = 0.0
        for d in aux:
            cells = d.selection.geometry
            if cells not in targets:
                targets[cells] = score_targets(samples, d.selection, size, ignored)
            loss = loss + score_loss(d.scores, targets[cells], d.valid)
        return loss / len(aux)


def _is_frozen(scorer: nn.Module) -> bool:
    parameters = list(scorer.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _measured(aux: list) -> dict[str, Tensor]:
    """The keep ratio of each place; names without 'loss' are logged and not summed."""
    ratios: dict[str, list[Tensor]] = {}
    for d in aux:
        kept = d.selection.keep_mask if d.valid is None else d.selection.keep_mask[d.valid]
        ratios.setdefault(f"keep_ratio/{d.name}", []).append(kept.float().mean())
    return {name: torch.stack(values).mean() for name, values in ratios.items()}
