"""What users call from Python."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from .sparsity import (
    Budgeted,
    Decided,
    Decision,
    Dial,
    Selection,
    Tunable,
    budgets,
    check_keep_ratio,
    record_decisions,
    valid,
)


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
    return record_decisions(set(find_decisions(model)))


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
    mmseg leave them (``img_shape`` beside ``pad_shape``), also those of the several batches of mmdet's semi-supervised
    detectors; without them, and for crops of sliding windows, everything counts. ``SparsityHook`` and the tools call
    this; so may you, more than once, with a model of an inferencer or a loop of your own.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    if not any(isinstance(router, Budgeted) for router in find_routers(model).values()):
        raise ValueError(f"ignore_padding: {type(model).__name__} has no dynamic part (was it built with `sparsity`?)")
    if any(isinstance(getattr(hook, "__self__", None), _PaddingWatch) for hook in model._forward_pre_hooks.values()):
        return
    watch = _PaddingWatch()
    model.register_forward_pre_hook(watch.begin, with_kwargs=True)
    model.register_forward_hook(watch.end, always_call=True)
    for part in model.modules():  # the model, or the student and the teacher in it
        if isinstance(getattr(part, "backbone", None), nn.Module):
            part.backbone.register_forward_pre_hook(watch.see)


class _PaddingWatch:
    """Forward hooks that tell a call the real sizes of its pictures. They hold nothing."""

    def begin(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        inputs, samples = batch_of(args, kwargs)
        if isinstance(inputs, Mapping) and isinstance(samples, Mapping):  # a batch for each branch of a training
            batches = [
                valid.Batch(pictures, _real_sizes(pictures, samples.get(name))) for name, pictures in inputs.items()
            ]
            valid.enter(self, None, (0, 0), batches)
        else:
            sizes = _real_sizes(inputs, samples)
            valid.enter(self, sizes, (0, 0) if sizes is None else tuple(inputs.shape[-2:]))

    def see(self, backbone: nn.Module, args: tuple) -> None:
        if args and isinstance(args[0], Tensor):
            valid.read(args[0])

    def end(self, model: nn.Module, args: tuple, output: Any) -> None:
        valid.leave(self)


def _real_sizes(inputs: Any, samples: Any) -> list[tuple[int, int]] | None:
    """Height and width of each picture of a batch; None if they are not known, or all of it is real."""
    if not (isinstance(inputs, Tensor) and inputs.dim() == 4 and isinstance(samples, Sequence)):
        return None
    padded = tuple(inputs.shape[-2:])
    sizes = [_real_size(sample, padded) for sample in samples]
    return sizes if len(sizes) == len(inputs) and any(size != padded for size in sizes) else None


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
