"""What users call from Python."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from .sparsity import Budgeted, Decided, Decision, Dial, Selection, Tunable, ValidArea


def find_decisions(model: nn.Module) -> list[Decision]:
    """Every place of a model where something is decided, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, Decision)]


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
    dials = find_dials(model)
    budgets = [dial.keep_ratio for dial in dials]
    try:
        for dial in dials:
            dial.keep_ratio = 1.0
        yield model
    finally:
        for dial, budget in zip(dials, budgets, strict=True):
            dial.keep_ratio = budget


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
    """Each budget, by the name that logs use."""
    return {dial.name: dial.keep_ratio for dial in find_dials(model)}


def pop_aux(model: nn.Module) -> list[Decided]:
    """Take what all places decided since the last call: gates, scores and targets for the losses."""
    return [decided for decision in find_decisions(model) for decided in decision.pop_aux()]


def ignore_padding(model: nn.Module) -> None:
    """Let the budgets and the pooled context of a model be those of real pixels where a batch of pictures is padded.

    Padding then takes the fast path, and keep ratios, their losses and logs are of what remains, picture by picture.
    The sizes are read from the data samples that the model's forward is given, as the data preprocessors of mmdet and
    mmseg leave them (``img_shape`` beside ``pad_shape``); without them, and for crops of sliding windows, everything
    counts. ``SparsityHook`` and the tools call this; so may you, more than once, with a model of an inferencer or a
    loop of your own.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    routers = [router for router in find_routers(model).values() if isinstance(router, Budgeted)]
    if not routers:
        raise ValueError(f"ignore_padding: {type(model).__name__} has no dynamic part (was it built with `sparsity`?)")
    if any(router.area is not None for router in routers):
        return
    area = ValidArea()
    for router in routers:
        router.area = area
    watch = _PaddingWatch(area)
    model.register_forward_pre_hook(watch.begin, with_kwargs=True)
    model.register_forward_hook(watch.end, always_call=True)
    if isinstance(getattr(model, "backbone", None), nn.Module):
        model.backbone.register_forward_pre_hook(watch.see)


class _PaddingWatch:
    """Forward hooks. They hold no module, so copies of a model (EMA, teachers) have their own."""

    def __init__(self, area: ValidArea) -> None:
        self.area = area

    def begin(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.area.close()
        inputs, samples = batch_of(args, kwargs)
        if isinstance(inputs, Tensor) and inputs.dim() == 4 and isinstance(samples, Sequence):
            padded = tuple(inputs.shape[-2:])
            sizes = [_real_size(sample, padded) for sample in samples]
            if len(sizes) == len(inputs) and any(size != padded for size in sizes):
                self.area.open(sizes, padded)

    def see(self, backbone: nn.Module, args: tuple) -> None:
        if args and isinstance(args[0], Tensor):
            self.area.see(tuple(args[0].shape[-2:]))

    def end(self, model: nn.Module, args: tuple, output: Any) -> None:
        self.area.close()


def _real_size(sample: Any, padded: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a picture in a batch of a padded size."""
    meta = getattr(sample, "metainfo", {})
    if "img_shape" not in meta or "pad_shape" not in meta:  # nobody padded
        return padded
    high, wide = meta["img_shape"][:2]
    return min(int(high), padded[0]), min(int(wide), padded[1])


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, where a runner holds it in a wrapper for several processes."""
    return model.module if is_model_wrapper(model) else model


def mode_of(args: tuple, kwargs: Mapping[str, Any]) -> str:
    """The mode of a call of a model's forward: 'loss', 'predict' or 'tensor'."""
    return kwargs.get("mode", args[2] if len(args) > 2 else "tensor")


def batch_of(args: tuple, kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """The inputs and data samples of a call of a model's forward, however they were passed."""
    inputs = kwargs.get("inputs", args[0] if args else None)
    return inputs, kwargs.get("data_samples", args[1] if len(args) > 1 else None)
