"""One picture through a network and through its dense twin: what each found, where the network looked, what it cost."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.visualization import Visualizer
from torch import nn

from mmsparse.analysis import Macs, compare_latency, count_macs
from mmsparse.apis import budget, dense_twin, record_selections
from mmsparse.calls import predict, prepare_batch
from mmsparse.sparsity import Decider, Selection

from .keep_maps import slow_share
from .panels import Found, draw_found, pixels_of


@dataclass(frozen=True)
class Seen:
    """What one network found, and at which cost."""

    found: Found
    macs: Macs
    ms: float | None  # of a whole prediction; None: not timed


@dataclass(frozen=True)
class Look:
    """A picture, and what the dense and the routed network made of it.

    Args:
        name: The picture's.
        image: (H, W, 3) RGB, as the network saw it.
        places: Of every place, the share (H, W) in [0, 1] of its decisions that sent a pixel through the slow path.
        dense: Everything kept.
        routed: At the budget.
    """

    name: str
    image: np.ndarray
    places: dict[str, np.ndarray]
    dense: Seen
    routed: Seen


def look(
    model: nn.Module,
    visualizer: Visualizer,
    picture: dict[str, Any],
    name: str,
    keep_ratio: float | Mapping[str, Any] | None = None,
    score_thr: float = 0.3,
    rounds: int = 0,
) -> Look:
    """Run a picture through a routed network and its dense twin; the model stays as it is.

    Counting and drawing are not made for several threads at once.

    Args:
        model: A detector, segmenter or classifier in evaluation mode.
        visualizer: The library's own, with ``dataset_meta`` set.
        picture: What the test pipeline returned.
        name: The picture's.
        keep_ratio: Another budget, as ``mmsparse.budget`` takes it; None: the model's own.
        score_thr: Boxes below it are not drawn.
        rounds: How often both are timed, in turn.
    """
    batch, image = prepare_batch(model, [picture]), pixels_of(picture)

    def routed() -> AbstractContextManager[None]:
        return nullcontext() if keep_ratio is None else budget(keep_ratio, model)

    with routed(), record_selections(model) as taken:
        found, macs = _counted(model, batch)
        places = _shares(model, taken, tuple(batch["inputs"].shape[-2:]))
    with dense_twin(model):
        dense_found, dense_macs = _counted(model, batch)
    routed_ms, dense_ms = _timed(model, batch, routed, rounds) if rounds else (None, None)
    return Look(
        name,
        image,
        {place: share[: image.shape[0], : image.shape[1]] for place, share in places.items()},
        Seen(draw_found(visualizer, image, dense_found, score_thr), dense_macs, dense_ms),
        Seen(draw_found(visualizer, image, found, score_thr), macs, routed_ms),
    )


def _counted(model: nn.Module, batch: dict[str, Any]) -> tuple[Any, Macs]:
    """A prediction of its own, for models write into the samples they are given, and its arithmetic."""
    found = []
    macs = count_macs(model, lambda: found.extend(predict(model, batch)))
    return found[0].cpu(), macs


def _timed(
    model: nn.Module, batch: dict[str, Any], routed: Callable[[], AbstractContextManager[None]], rounds: int
) -> tuple[float, float]:
    def run(within: AbstractContextManager[Any]) -> None:
        with within:
            predict(model, batch)

    runs = {"dense": lambda: run(dense_twin(model)), "routed": lambda: run(routed())}
    times = compare_latency(runs, rounds, warmup=1)
    return times["routed"].median, times["dense"].median


def _shares(model: nn.Module, taken: Sequence[tuple[str, Selection]], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Of every place that decides about pictures, in the model's order, under the name of its part and its own."""
    shares = {}
    for path, place in model.named_modules():
        if not isinstance(place, Decider) or place.of_regions:
            continue
        own = [(name, selection) for name, selection in taken if name == place.name]
        if own or place.keep_ratio >= 1.0:  # where everything is kept, nothing is decided
            part = "" if "." in place.name else path.partition(".")[0] + "."
            shares[part + place.name] = slow_share(own, size)
    return shares
