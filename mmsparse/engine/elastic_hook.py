"""One training for many budgets: keep ratios that take turns."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from mmsparse.apis import find_routers, set_keep_ratio
from mmsparse.calls import unwrapped
from mmsparse.registry import HOOKS

Budget = float | Sequence[float] | Mapping[str, Any]


@HOOKS.register_module()
class ElasticHook(Hook):
    """Trains one model for several budgets, so that one checkpoint serves them all. Beside SparsityHook.

    Evaluation, during the training and after it, is at the budget that the model was built with.

    Args:
        keep_ratios: The budgets that take turns; each is what ``mmsparse.set_keep_ratio`` takes. 1.0 trains the dense
            network.
        interval: How long each turn is, in epochs or iterations.
        by_epoch: Whether ``interval`` counts epochs.
    """

    priority = "NORMAL"

    def __init__(self, keep_ratios: Sequence[Budget], interval: int = 1, by_epoch: bool = True) -> None:
        if isinstance(keep_ratios, str) or not isinstance(keep_ratios, Sequence) or len(keep_ratios) < 2:
            raise ValueError(
                "ElasticHook: expected argument `keep_ratios` to be two or more budgets such as [1.0, 0.7, 0.5], but "
                f"got {keep_ratios!r}"
            )
        if type(interval) is not int or interval < 1:
            raise ValueError(
                f"ElasticHook: expected argument `interval` to be a positive whole number, but got {interval!r}"
            )
        self.keep_ratios = list(keep_ratios)
        self.interval = interval
        self.by_epoch = by_epoch
        self._own: dict[str, tuple[float, ...]] = {}

    def before_train(self, runner: Runner) -> None:
        if self.by_epoch and not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError(
                "ElasticHook: argument `by_epoch`: this training counts iterations. Set by_epoch=False, and interval "
                "to the iterations of a turn"
            )
        self._own = self.check(unwrapped(runner.model))

    def check(self, model: nn.Module) -> dict[str, tuple[float, ...]]:
        """Refuse budgets that do not fit; the model's own."""
        own = {name: router.keep_ratio for name, router in find_routers(model).items()}
        for budget in self.keep_ratios:
            set_keep_ratio(model, budget)
        set_keep_ratio(model, own)
        return own

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        done = runner.epoch if self.by_epoch else runner.iter
        set_keep_ratio(unwrapped(runner.model), self.keep_ratios[done // self.interval % len(self.keep_ratios)])

    def before_val(self, runner: Runner) -> None:
        if self._own:
            set_keep_ratio(unwrapped(runner.model), self._own)

    after_train = before_val
