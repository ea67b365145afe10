"""Latency of several things side by side: in turn, in one process, on the same input."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one thing, and how it compares with the first of the group."""

    median: float
    p10: float
    p90: float
    speedup: float  # median of the ratios first / this, each taken within one round


def compare_latency(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int = 20,
    warmup: int = 3,
    progress: Callable[[range], Any] = iter,
) -> dict[str, Latency]:
    """Time several functions in turn; the first one is the reference of the ratios.

    A noisy machine slows all members of a round alike, so the ratio is taken within rounds.

    Args:
        runs: Name -> function of no arguments.
        rounds: Timed rounds.
        warmup: Rounds that are not timed.
        progress: Wraps the range of rounds, for example tqdm.
    """
    if rounds < 1:
        raise ValueError(f"Expected argument `rounds` to be at least 1, but got {rounds}")
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad():
        for turn in progress(range(warmup + rounds)):
            for name, run in runs.items():
                seconds = _timed(run)
                if turn >= warmup:
                    times[name].append(seconds * 1e3)
    reference = np.array(next(iter(times.values())))
    result = {}
    for name, values in times.items():
        p10, median, p90 = np.percentile(values, (10, 50, 90))
        result[name] = Latency(median, p10, p90, float(np.median(reference / np.array(values))))
    return result


def _timed(run: Callable[[], Any]) -> float:
    _synchronize()
    start = time.perf_counter()
    run()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
