"""MACs over real pictures, dense beside executed, as numbers and as the table the tools print."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from mmsparse.apis import dense_twin
from mmsparse.engine.launch import predict, prepare_batch

from .latency import Latency, compare_latency
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
    """One row a part: dense, executed (mean +- std over pictures) and what is left, in GMACs.

    The last row says what of the total is spent on deciding.
    """
    lines = [f"{'GMACs':<10}{'dense':>10}{'executed':>10}{'+-':>8}{'left':>8}"]
    for part in PARTS:
        dense, executed = macs.mean("dense", part), macs.mean("executed", part)
        left = f"{100 * executed / dense:7.1f}%" if dense else "      -"
        lines.append(
            f"{part:<10}{dense / 1e9:10.3f}{executed / 1e9:10.3f}{macs.std('executed', part) / 1e9:8.3f}{left}"
        )
    return "\n".join(lines)


def describe_macs(model: nn.Module, dataset: Any, count: int) -> str:
    """The table for the first pictures of a data set."""
    pictures = [dataset[i] for i in range(min(count, len(dataset)))]
    return f"executed arithmetic, mean over {len(pictures)} pictures\n{macs_table(picture_macs(model, pictures))}"


def time_beside_dense(
    model: nn.Module, batch: dict[str, Any], rounds: int, warmup: int, progress: Callable[[range], Any] = iter
) -> dict[str, dict[str, Latency]]:
    """Latency of the backbone and of the whole prediction, each ``dense`` and ``routed`` in turn on one batch."""

    def dense(run: Callable[[], Any]) -> None:
        with dense_twin(model):
            run()

    runs = {"backbone": lambda: model.backbone(batch["inputs"]), "whole": lambda: predict(model, batch)}
    return {
        part: compare_latency({"dense": partial(dense, run), "routed": run}, rounds, warmup, progress)
        for part, run in runs.items()
    }
