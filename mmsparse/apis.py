"""What users call from Python."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from .sparsity import Decided, Decision, Router, Selection


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


@contextmanager
def dense_twin(model: nn.Module) -> Iterator[nn.Module]:
    """The same weights with everything kept, for the time of a with-block: in evaluation exactly the dense network."""
    decisions = find_decisions(model)
    budgets = [decision.keep_ratio for decision in decisions]
    try:
        for decision in decisions:
            decision.keep_ratio = 1.0
        yield model
    finally:
        for decision, budget in zip(decisions, budgets, strict=True):
            decision.keep_ratio = budget


@contextmanager
def record_selections(model: nn.Module) -> Iterator[list[tuple[str, Selection]]]:
    """Collect (place, selection) of every decision taken inside a with-block. Places at ratio 1.0 decide nothing."""
    taken: list[tuple[str, Selection]] = []

    def note(decision: Decision, _: tuple, selection: Selection | None) -> None:
        if selection is not None:
            taken.append((decision.name, selection))

    handles = [decision.register_forward_hook(note) for decision in find_decisions(model)]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()


def get_keep_ratio(model: nn.Module) -> dict[str, float]:
    """The budget of each place, by the name that logs use."""
    return {decision.name: decision.keep_ratio for decision in find_decisions(model)}


def pop_aux(model: nn.Module) -> list[Decided]:
    """Take what all places decided since the last call: gates, scores and targets for the losses."""
    return [decided for decision in find_decisions(model) for decided in decision.pop_aux()]
