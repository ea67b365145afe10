"""MACs over real pictures, dense beside executed, as numbers and as the table the tools print."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from mmsparse.apis import dense_twin
from mmsparse.calls import predict, prepare_batch

from .latency import Latency, seconds_of, stopwatch, time_in_turn
from .macs import Macs, count_macs

PARTS = ("backbone", "neck", "head", "total", "scorers")


@dataclass(frozen=True)
class PictureMacs:
    """Counts of the same pictures through the dense and the routed network."""

    dense: list[Macs]
    executed: list[Macs]

    def mean(self, kind: str, part: str) -> float:
        return float(np.mean([getattr(macs, part) for macs in getattr(self, kind)]))

    def std(self, kind: str, part: str) -> float:
        return float(np.std([getattr(macs, part) for macs in getattr(self, kind)]))

    def p95(self, kind: str, part: str) -> float:
        """What one picture in twenty exceeds: where budgets follow the picture, that is what a deadline needs."""
        return float(np.percentile([getattr(macs, part) for macs in getattr(self, kind)], 95))

    def means(self) -> dict[str, dict[str, float]]:
        """Of each part: dense and executed."""
        return {part: {kind: self.mean(kind, part) for kind in ("dense", "executed")} for part in PARTS}


def picture_macs(model: nn.Module, pictures: Sequence[dict[str, Any]]) -> PictureMacs:
    """Count each picture alone, once with everything kept and once at the model's budget."""
    model.eval()
    dense, executed = [], []
    for picture in pictures:
        batch = prepare_batch(model, [picture])
        executed.append(count_macs(model, lambda batch=batch: predict(model, batch)))
        with dense_twin(model):
            dense.append(count_macs(model, lambda batch=batch: predict(model, batch)))
    return PictureMacs(dense, executed)


def macs_table(macs: PictureMacs) -> str:
    """One row a part, in GMACs: dense, executed (mean +- std over pictures, 95th percentile), what is left of the mean.

    The last row says what of the total is spent on deciding.
    """
    lines = [f"{'GMACs':<10}{'dense':>10}{'executed':>10}{'+-':>8}{'p95':>9}{'left':>8}"]
    for part in PARTS:
        dense, executed = macs.mean("dense", part), macs.mean("executed", part)
        left = f"{100 * executed / dense:7.1f}%" if dense else "      -"
        spread, p95 = macs.std("executed", part) / 1e9, macs.p95("executed", part) / 1e9
        lines.append(f"{part:<10}{dense / 1e9:10.3f}{executed / 1e9:10.3f}{spread:8.3f}{p95:9.3f}{left}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Beside:
    """Latency of a routed network beside its dense twin in the memory layout that this one is faster in."""

    dense: Latency
    routed: Latency
    layout: str


def time_beside_dense(
    model: nn.Module, batch: dict[str, Any], rounds: int, warmup: int, progress: Callable[[range], Any] = iter
) -> dict[str, Beside]:
    """Latency of the backbone and of the whole prediction of one batch: dense in each layout and routed, in turn.

    The backbone is timed inside of the prediction, where it is told the real sizes of padded pictures; all its
    forwards count, where there are several.
    """
    twins = _twins(model, batch)
    found = {}
    for part, seconds in (("backbone", _seconds_of_backbone), ("whole", _seconds_of_whole)):
        clocks = {layout: partial(_seconds_of_dense, seconds, *twin) for layout, twin in twins.items()}
        times = time_in_turn({**clocks, "routed": partial(seconds, model, batch)}, rounds, warmup, progress)
        layout = min(twins, key=lambda name: float(np.median(times[name])))
        dense, routed = (Latency.of(times[name], times[layout]) for name in (layout, "routed"))
        found[part] = Beside(dense, routed, layout)
    return found


def _twins(model: nn.Module, batch: dict[str, Any]) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    """Who is the dense network in each layout, and its batch."""
    twins = {"contiguous": (model, batch)}
    copied = copy.deepcopy(model).to(memory_format=torch.channels_last)
    turned = {**batch, "inputs": batch["inputs"].contiguous(memory_format=torch.channels_last)}
    try:
        with torch.no_grad(), dense_twin(copied):
            predict(copied, turned)
    except RuntimeError as error:
        if "contiguous" not in str(error):
            raise
        return twins  # a network with a view or an operator that wants its maps in one layout
    return {**twins, "channels-last": (copied, turned)}


def _seconds_of_dense(
    seconds: Callable[[nn.Module, dict[str, Any]], float], model: nn.Module, batch: dict[str, Any]
) -> float:
    with dense_twin(model):
        return seconds(model, batch)


def _seconds_of_whole(model: nn.Module, batch: dict[str, Any]) -> float:
    return seconds_of(lambda: predict(model, batch))


def _seconds_of_backbone(model: nn.Module, batch: dict[str, Any]) -> float:
    with stopwatch(model.backbone) as seconds:
        predict(model, batch)
    return sum(seconds)
