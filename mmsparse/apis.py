"""What users call from Python."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn

from .sparsity import (
    Aux,
    Decider,
    Dial,
    Selection,
    Tunable,
    budgets,
    check_keep_ratio,
    record_decisions,
)


def find_deciders(model: nn.Module) -> list[Decider]:
    """Every place of a model where something is decided, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, Decider)]


def find_dials(model: nn.Module) -> list[Dial]:
    """Every budget of a model, in the order of its modules: those of decisions, and whatever else has one."""
    return [module for module in model.modules() if isinstance(module, Dial)]


def find_routers(model: nn.Module) -> dict[str, Tunable]:
    """What has budgets in a model, by the part that holds it (``backbone``, ``neck``, ``bbox_head``); '' is the model.

    Routers go by the part alone; anything else by its own name in it.
    """
    return {
        name.removesuffix("router").removesuffix("."): module
        for name, module in model.named_modules()
        if isinstance(module, Tunable)
    }


def set_keep_ratio(model: nn.Module, keep_ratio: float | Sequence[float] | Mapping[str, Any]) -> None:
    """Change the budget of a model; nothing is trained or copied.

    Args:
        model: A detector, segmenter, classifier or backbone with dynamic parts.
        keep_ratio: One number in (0, 1], expanded by the rule of each part (in backbones the paper's, in necks and
            heads the same everywhere). 1.0 is the dense network. Or one per place, if only one part is dynamic. Or
            one of these for each part, by its name; ``head`` means all parts but backbone and neck.
    """
    for dial, ratio in _ratios(model, keep_ratio, "set_keep_ratio").items():
        dial.keep_ratio = ratio


def budget(
    keep_ratio: float | Sequence[float] | Mapping[str, Any], model: nn.Module | None = None
) -> AbstractContextManager[None]:
    """Another budget for what is called inside a with-block, in this thread alone; nothing on a model changes.

    Args:
        keep_ratio: As for ``set_keep_ratio``.
        model: Whose. None: of every model that is called; ``keep_ratio`` is one number then.
    """
    if model is not None:
        return budgets(_ratios(model, keep_ratio, "budget"))
    if isinstance(keep_ratio, Sequence | Mapping):
        raise TypeError(
            f"budget: argument `keep_ratio`={keep_ratio!r} of several parts or places needs the model that has them: "
            "budget(keep_ratio, model)"
        )
    return budgets({}, check_keep_ratio(keep_ratio))


def _ratios(model: nn.Module, keep_ratio: float | Sequence[float] | Mapping[str, Any], what: str) -> dict[Dial, float]:
    """What a budget means for each dial of the parts that it names."""
    routers = find_routers(model)
    if not routers:
        raise ValueError(f"{what}: {type(model).__name__} has no dynamic part (was it built with `sparsity`?)")
    if not isinstance(keep_ratio, Mapping):
        if len(routers) > 1 and isinstance(keep_ratio, Sequence):
            raise ValueError(
                f"{what}: expected argument `keep_ratio` to be one number, or a dict of the parts "
                f"{list(routers)}, because {type(model).__name__} has several, but got {keep_ratio}"
            )
        keep_ratio = dict.fromkeys(routers, keep_ratio)
    if "head" in keep_ratio and "head" not in routers:
        heads = [part for part in routers if part.split(".")[0] not in ("backbone", "neck")]
        keep_ratio = {**dict.fromkeys(heads, keep_ratio["head"]), **keep_ratio}
        del keep_ratio["head"]
    unknown = sorted(keep_ratio.keys() - routers.keys())
    if unknown:
        raise ValueError(f"{what}: argument `keep_ratio` names {unknown}, but the dynamic parts are {list(routers)}")
    return {dial: r for part, ratio in keep_ratio.items() for dial, r in routers[part].ratios(ratio).items()}


@contextmanager
def dense_twin(model: nn.Module) -> Iterator[nn.Module]:
    """The same weights with everything kept, for the time of a with-block: in evaluation exactly the dense network."""
    with budgets(dict.fromkeys(find_dials(model), 1.0)):
        yield model


def record_selections(model: nn.Module) -> AbstractContextManager[list[tuple[str, Selection]]]:
    """Collect (place, selection) of every decision taken inside a with-block, in this thread.

    Places at ratio 1.0 decide nothing.
    """
    return record_decisions(set(find_deciders(model)))


def get_keep_ratio(model: nn.Module) -> dict[str, float]:
    """Each budget, by the name that logs use."""
    return {dial.name: dial.keep_ratio for dial in find_dials(model)}


def pop_aux(model: nn.Module) -> list[Aux]:
    """Take what all places decided since the last call: gates, scores and targets for the losses."""
    return [aux for decider in find_deciders(model) for aux in decider.pop_aux()]
