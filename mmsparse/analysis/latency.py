"""Latency of several things side by side: in turn, in one process, on the same input."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one thing, and how it compares with another."""

    median: float
    p10: float
    p90: float
    speedup: float  # median of the ratios reference / this, each taken within one round

    @classmethod
    def of(cls, times: np.ndarray, reference: np.ndarray) -> "Latency":
        """From the milliseconds of each round; a noisy machine slows all members of a round alike."""
        p10, median, p90 = np.percentile(times, (10, 50, 90))
        return cls(median, p10, p90, float(np.median(reference / times)))


def compare_latency(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int = 20,
    warmup: int = 3,
    progress: Callable[[range], Any] = iter,
) -> dict[str, Latency]:
    """Time several functions in turn; the first one is the reference of the ratios.

    Args:
        runs: Name -> function of no arguments.
        rounds: Timed rounds.
        warmup: Rounds that are not timed.
        progress: Wraps the range of rounds, for example tqdm.
    """
    times = time_in_turn({name: partial(seconds_of, run) for name, run in runs.items()}, rounds, warmup, progress)
    reference = next(iter(times.values()))
    return {name: Latency.of(values, reference) for name, values in times.items()}


def time_in_turn(
    clocks: Mapping[str, Callable[[], float]], rounds: int, warmup: int, progress: Callable[[range], Any] = iter
) -> dict[str, np.ndarray]:
    """The milliseconds of each round, of functions that run something and say how many seconds it took."""
    if rounds < 1:
        raise ValueError(f"Expected argument `rounds` to be at least 1, but got {rounds}")
    times: dict[str, list[float]] = {name: [] for name in clocks}
    with torch.no_grad():
        for turn in progress(range(warmup + rounds)):
            for name, clock in clocks.items():
                seconds = clock()
                if turn >= warmup:
                    times[name].append(seconds * 1e3)
    return {name: np.array(values) for name, values in times.items()}


def seconds_of(run: Callable[[], Any]) -> float:
    _synchronize()
    start = time.perf_counter()
    run()
    _synchronize()
    return time.perf_counter() - start


@contextmanager
def stopwatch(module: nn.Module) -> Iterator[list[float]]:
    """The seconds of each forward of a part of a network, while the whole of it runs inside a with-block."""
    starts, seconds = [], []

    def start(*_: Any) -> None:
        _synchronize()
        starts.append(time.perf_counter())

    def stop(*_: Any) -> None:
        _synchronize()
        seconds.append(time.perf_counter() - starts.pop())

    handles = [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
