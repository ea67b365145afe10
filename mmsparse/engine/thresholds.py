"""Thresholds of budgets per image, where several processes or averaged weights share them."""

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from mmengine.dist import all_reduce, broadcast, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmsparse.calls import ignore_padding, unwrapped
from mmsparse.registry import HOOKS
from mmsparse.sparsity import ThresholdSelector


def find_thresholds(model: nn.Module) -> list[ThresholdSelector]:
    return [module for module in model.modules() if isinstance(module, ThresholdSelector)]


def share_thresholds(model: nn.Module) -> None:
    """Average the running quantiles of all processes, those that have none left out; all of them must call this."""
    selectors = find_thresholds(model)
    if not selectors or get_world_size() == 1:
        return
    seen = torch.stack([selector.num_updates > 0 for selector in selectors]).float()  # (places,)
    quantiles = torch.stack([selector.quantiles for selector in selectors])
    total = torch.cat([quantiles * seen[:, None], seen[:, None]], dim=1)
    all_reduce(total)
    counts = total[:, -1]
    for selector, mean, count in zip(selectors, total[:, :-1] / counts[:, None].clamp_min(1.0), counts, strict=True):
        selector.quantiles.copy_(mean)
        selector.num_updates.copy_(torch.maximum(selector.num_updates, (count > 0).long()))


@HOOKS.register_module()
class AveragedThresholdsHook(Hook):
    """Gives networks of averaged weights the thresholds of their own scores.

    Weights are averaged, but thresholds would be those of the trained network: copied, averaged as if they were
    weights, or never transferred. ``SparsityHook`` brings this hook along where there are thresholds.

    - ``EMAHook``: before the averaged network is evaluated or saved, its thresholds are fitted to what it scores in the
      last training pictures.
    - The ``teacher`` of a mean teacher (mmdet's semi-supervised detectors) looks at each training batch, so it learns
      its thresholds as a network in training does.

    Args:
        pictures: How many training pictures are kept for the fit.
    """

    def __init__(self, pictures: int = 64) -> None:
        if type(pictures) is not int or pictures < 1:
            raise ValueError(
                "AveragedThresholdsHook: expected argument `pictures` to be a positive whole number, but got "
                f"{pictures!r}"
            )
        self._last: deque[dict[str, Any]] = deque(maxlen=pictures)
        self._averaged: list[EMAHook] = []
        self._watching: list[ThresholdSelector] = []
        self._own: list[tuple[ThresholdSelector, Tensor]] = []

    def before_train(self, runner: Runner) -> None:
        teacher = getattr(unwrapped(runner.model), "teacher", None)
        self._watching = find_thresholds(teacher) if isinstance(teacher, nn.Module) else []
        self._averaged = [hook for hook in runner.hooks if isinstance(hook, EMAHook)]
        for hook in self._averaged:
            ignore_padding(hook.ema_model.module.eval())

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        for selector in self._watching:
            selector.watches = True

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        for selector in self._watching:
            selector.watches = False
        if self._averaged:
            self._last.extend(_pictures(data_batch))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """The hook's state is what is saved, whether it has been put into the checkpoint already or will be."""
        for hook in self._averaged:
            self._fit(hook.ema_model.module)

    def before_val(self, runner: Runner) -> None:
        """For the averaged network; where its hook leaves buffers alone, they are lent to the model here."""
        for hook in self._averaged if self._last else []:
            averaged = find_thresholds(hook.ema_model.module)
            self._fit(hook.ema_model.module)
            for selector in averaged:  # all processes evaluate what the first one saves
                broadcast(selector.quantiles)
            if not hook.ema_model.update_buffers:
                model = find_thresholds(hook.src_model)
                self._own = [(selector, selector.quantiles.clone()) for selector in model]
                for selector, other in zip(model, averaged, strict=True):
                    selector.quantiles.copy_(other.quantiles)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        for selector, quantiles in self._own:
            selector.quantiles.copy_(quantiles)
        self._own = []

    before_test = before_val
    after_test_epoch = after_val_epoch

    def _fit(self, model: nn.Module) -> None:
        with torch.no_grad(), ExitStack() as fits:
            for selector in find_thresholds(model):
                fits.enter_context(selector.fit())
            for picture in self._last:  # alone: a batch in evaluation may have to be of one size
                model(**model.data_preprocessor(picture, False), mode="tensor")


def _pictures(batch: Any) -> list[dict[str, Any]]:
    """A batch as it is loaded, cut into batches of one picture; of several branches, none."""
    images = batch["inputs"] if isinstance(batch, dict) else None
    if not isinstance(images, Tensor | Sequence):
        return []
    parts = {key: value for key, value in batch.items() if value is not None}
    return [{key: value[i : i + 1] for key, value in parts.items()} for i in range(len(images))]
