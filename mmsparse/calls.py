"""A call of an OpenMMLab model: its batch, its mode, and the real sizes of its pictures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmengine.dataset import pseudo_collate
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from .apis import find_routers
from .sparsity import Router, valid


def prepare_batch(model: nn.Module, pictures: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate and preprocess pictures as ``test_step`` would."""
    return model.data_preprocessor(pseudo_collate(pictures), False)


def predict(model: nn.Module, batch: dict[str, Any]) -> Any:
    return model(**batch, mode="predict")


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
    if not any(isinstance(router, Router) for router in find_routers(model).values()):
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
        inputs, samples, _ = call_of(args, kwargs)
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


class Call(NamedTuple):
    """What a model's forward was given."""

    inputs: Any
    samples: Any
    mode: str  # 'loss', 'predict' or 'tensor'


def call_of(args: tuple, kwargs: Mapping[str, Any]) -> Call:
    """A call of a model's forward, however its arguments were passed."""
    given = {**dict(zip(("inputs", "data_samples", "mode"), args, strict=False)), **kwargs}
    return Call(given.get("inputs"), given.get("data_samples"), given.get("mode", "tensor"))
