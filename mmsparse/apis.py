"""What users call from Python."""

from collections.abc import Sequence

from torch import nn

from .sparsity import Decided, Decision, Router


def find_decisions(model: nn.Module) -> list[Decision]:
    """Every place of a model where something is decided, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, Decision)]


def set_keep_ratio(model: nn.Module, keep_ratio: float | Sequence[float]) -> None:
    """Change the budget of a model; nothing is trained or copied.

    Args:
        model: A detector, segmenter, classifier or backbone with dynamic parts.
        keep_ratio: One number in (0, 1], expanded by the paper's rule, or one per place. 1.0 is the dense network.
    """
    routers = [module for module in model.modules() if isinstance(module, Router)]
    if not routers:
        raise ValueError(f"set_keep_ratio: {type(model).__name__} has no dynamic part (was it built with `sparsity`?)")
    for router in routers:
        router.set_keep_ratio(keep_ratio)


def get_keep_ratio(model: nn.Module) -> dict[str, float]:
    """The budget of each place, by the name that logs use."""
    return {decision.name: decision.keep_ratio for decision in find_decisions(model)}


def pop_aux(model: nn.Module) -> list[Decided]:
    """Take what all places decided since the last call: gates, scores and targets for the losses."""
    return [decided for decision in find_decisions(model) for decided in decision.pop_aux()]
