"""What users call from Python."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from .sparsity import Budgeted, Decided, Decision, Selection


def find_decisions(model: nn.Module) -> list[Decision]:
    """Every place of a model where something is decided, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, Decision)]


def find_routers(model: nn.Module) -> dict[str, Budgeted]:
    """The routers of a model by the part that holds them (``backbone``, ``neck``, ``bbox_head``); '' is the model."""
    return {
        name.removesuffix("router").removesuffix("."): module
        for name, module in model.named_modules()
        if isinstance(module, Budgeted)
    }


def set_keep_ratio(model: nn.Module, keep_ratio: float | Sequence[float] | Mapping[str, Any]) -> None:
    """Change the budget of a model; nothing is trained or copied.

    Args:
        model: A detector, segmenter, classifier or backbone with dynamic parts.
        keep_ratio: One number in (0, 1], expanded by the rule of each part (in backbones the paper's, in necks and
            heads the same everywhere). 1.0 is the dense network. Or one per place, if only one part is dynamic. Or
            one of these for each part, by its name; ``head`` means all parts but backbone and neck.
    """
    routers = find_routers(model)
    if not routers:
        raise ValueError(f"set_keep_ratio: {type(model).__name__} has no dynamic part (was it built with `sparsity`?)")
    if not isinstance(keep_ratio, Mapping):
        if len(routers) > 1 and isinstance(keep_ratio, Sequence):
            raise ValueError(
                f"set_keep_ratio: expected argument `keep_ratio` to be one number, or a dict of the parts "
                f"{list(routers)}, because {type(model).__name__} has several, but got {keep_ratio}"
            )
        keep_ratio = dict.fromkeys(routers, keep_ratio)
    if "head" in keep_ratio and "head" not in routers:
        heads = [part for part in routers if part.split(".")[0] not in ("backbone", "neck")]
        keep_ratio = {**dict.fromkeys(heads, keep_ratio["head"]), **keep_ratio}
        del keep_ratio["head"]
    unknown = sorted(keep_ratio.keys() - routers.keys())
    if unknown:
        raise ValueError(
            f"set_keep_ratio: argument `keep_ratio` names {unknown}, but the dynamic parts are {list(routers)}"
        )
    for part, ratio in keep_ratio.items():
        routers[part].set_keep_ratio(ratio)


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
