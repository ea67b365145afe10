"""What each place of a network costs and is worth on this machine, and the keep ratios that follow from it."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmsparse.apis import dense_twin, find_dials, find_routers
from mmsparse.sparsity import Dial, budgets

from .artifact import Size
from .program import Program
from .rivals import DENSE, Form, Network, Row, time_rivals

Ratios = Mapping[str, float]  # of some places, by name; all others are kept whole

FEW = 0.02  # of the dense arithmetic: places that save less, at half of their locations, are measured together
CERTAIN = 2.0  # standard errors
SURE, REPEATS = 0.01, 2  # error of a share that is good enough, and how often more rounds are tried
STEP, TOP = 0.05, 0.9  # of the ratios that are considered; what keeps nearly all never pays
BIN = 0.0005  # of the dense network's cost
TIE = 0.01  # relative loss of the metric that all of the arithmetic counts for: among equals, the most is kept


class OutOfReachError(ValueError):
    """No ratios that were measured get so low."""


@dataclass(frozen=True)
class Measured:
    """Some places at one keep ratio, all others kept whole.

    Args:
        keep_ratio: Theirs.
        macs: Share of the dense arithmetic.
        metric: What the network reaches; None if that was not asked.
        time: Share of the dense time; None if it was not taken.
        error: Standard error of it.
    """

    keep_ratio: float
    macs: float
    metric: float | None = None
    time: float | None = None
    error: float = 0.0


@dataclass(frozen=True)
class Group:
    """Places that get one keep ratio, and what was measured of them, by rising ratio."""

    places: Sequence[str]
    at: Sequence[Measured]

    @classmethod
    def read(cls, page: Mapping[str, Any]) -> "Group":
        return cls(page["places"], [Measured(**each) for each in page["at"]])

    def pays(self) -> bool:
        """Whether it is certainly faster than dense at the least of its ratios."""
        timed = [each for each in self.at if each.time is not None]
        return not timed or timed[0].time + CERTAIN * timed[0].error < 1.0

    def cost(self, keep_ratio: float, kind: str) -> float:
        """Share of the dense cost, "time" or "macs": between the ratios that were measured a line."""
        if keep_ratio >= 1.0:
            return 1.0
        known = [(each.keep_ratio, getattr(each, kind)) for each in self.at if getattr(each, kind) is not None]
        if len(known) > 1 and keep_ratio > known[-1][0]:  # beyond them, too; a routed place is not dense at nearly 1
            (r0, c0), (r1, c1) = known[-2:]
            return c1 + (c1 - c0) / (r1 - r0) * (keep_ratio - r1)
        return float(np.interp(keep_ratio, *zip(*known, strict=True)))

    def loss(self, keep_ratio: float, whole: float | None) -> float:
        """Share of the whole network's metric that is lost, never less at a lower ratio; without one, of arithmetic."""
        removed = 1.0 - self.cost(keep_ratio, "macs")
        if whole is None:
            return removed
        lost = [max(0.0, 1.0 - each.metric / whole) for each in self.at]
        lost = np.maximum.accumulate([0.0, *reversed(lost)])[::-1]
        ratios = [*(each.keep_ratio for each in self.at), 1.0]
        return float(np.interp(keep_ratio, ratios, lost)) + TIE * removed

    def options(self, kind: str, whole: float | None) -> list[tuple[float, float, float]]:
        """Ratios with what they save and lose; to keep all of it is the first."""
        found = [(1.0, 0.0, 0.0)]
        if kind == "time" and not self.pays():
            return found
        least, error = self.at[0].keep_ratio, max(each.error for each in self.at)
        ratios = [each.keep_ratio for each in self.at]
        ratios += [round(STEP * i, 4) for i in range(1, round(1 / STEP)) if least < STEP * i <= TOP]
        for ratio in sorted(set(ratios)):
            saved = 1.0 - self.cost(ratio, kind)
            if saved > CERTAIN * error:
                found.append((ratio, saved, self.loss(ratio, whole)))
        return found


@dataclass(frozen=True)
class Solution:
    """Ratios, and what they should cost and reach."""

    ratios: dict[str, float]
    cost: float
    loss: float


def solve(groups: Sequence[Group], limit: float, kind: str, whole: float | None = None) -> Solution:
    """The ratios that lose least among those that cost no more than a share of the dense network's.

    What groups save and lose adds up.

    Args:
        groups: What was measured.
        limit: The share.
        kind: Of "time" or of "macs".
        whole: Metric of the whole network; None: what is lost is arithmetic.
    """
    options = [group.options(kind, whole) for group in groups]
    bins = max(0, math.ceil((1.0 - limit) / BIN))
    floor = 1.0 - sum(max(saved for _, saved, _ in each) for each in options)
    if limit < floor - BIN:
        raise OutOfReachError(f"{floor:.2f} to 1.00")
    best = np.full(bins + 1, np.inf)  # least loss by what has been saved so far, at least
    best[0] = 0.0
    taken: list[np.ndarray] = []
    for each in options:
        steps = [math.floor(saved / BIN + 0.5) for _, saved, _ in each]
        came = [np.maximum(np.arange(bins + 1) - step, 0) for step in steps]
        losses = np.stack([best[at] + loss for at, (_, _, loss) in zip(came, each, strict=True)])
        taken.append(losses.argmin(axis=0))
        best = losses.min(axis=0)
    while not np.isfinite(best[bins]):  # by the roundings of bins
        bins -= 1
    ratios, saved, lost = {}, 0.0, 0.0
    for group, each, choice in reversed(list(zip(groups, options, taken, strict=True))):
        ratio, saves, loses = each[choice[bins]]
        bins = max(bins - math.floor(saves / BIN + 0.5), 0)
        saved, lost = saved + saves, lost + loses
        ratios |= dict.fromkeys(group.places, ratio)
    return Solution(ratios, 1.0 - saved, lost)


def trade_off(groups: Sequence[Group], kind: str, whole: float | None, points: int = 40) -> list[Solution]:
    """The best choices from the dense network down to the floor."""
    found = []
    for limit in np.linspace(1.0, 0.0, points):
        try:
            found.append(solve(groups, float(limit), kind, whole))
        except OutOfReachError:
            break
    return found


def what_pays(groups: Sequence[Group]) -> dict[str, float]:
    """Each place at the one ratio that was measured, or whole where that is not certainly faster."""
    return {place: group.at[0].keep_ratio if group.pays() else 1.0 for group in groups for place in group.places}


def groups_of(model: nn.Module, size: Size, apart: bool = False) -> list[list[str]]:
    """The places of a model as they are measured: each alone, or with others of its part if they save little.

    Args:
        model: In evaluation.
        size: Of a picture.
        apart: Whether only places of the same keep ratio may be measured together.
    """
    picture, program = [torch.zeros(1, 3, *size)], Program(model, _part(model)).eval()
    with dense_twin(model):
        dense = program.macs(picture)
    groups: dict[Any, list[str]] = {}
    for part, router in find_routers(model).items():
        for dial in router.dials:
            with dense_twin(model), budgets({dial: 0.5}):
                saves = 1.0 - program.macs(picture) / dense
            key = dial.name if saves >= FEW else (part, apart and dial.keep_ratio)
            groups.setdefault(key, []).append(dial.name)
    return list(groups.values())


def _part(model: nn.Module) -> str:
    return "model" if callable(getattr(model, "extract_feat", None)) else "backbone"


def dials_at(model: nn.Module, ratios: Ratios) -> dict[Dial, float]:
    return {dial: ratios.get(dial.name, 1.0) for dial in find_dials(model)}


@dataclass
class Bench:
    """Times a model at several budgets beside the whole of it, in turn.

    Args:
        model: In evaluation.
        form: How it is run.
        size: Of a picture.
        batch: Pictures of a call.
        threads: Of a CPU.
        rounds: Timed rounds; each times everything once.
        warmup: Rounds before them.
        folder: For exported networks.
        progress: Wraps what takes long.
    """

    model: nn.Module
    form: Form
    size: Size
    batch: int
    threads: int
    rounds: int
    warmup: int
    folder: Path
    progress: Callable[..., Any] = lambda items, desc: items
    _names: dict[tuple, str] = field(default_factory=dict, init=False)  # of what is exported already

    def time(self, *variants: Ratios) -> list[Row]:
        """A row of the dense network, and one of each variant."""
        networks = [Network(DENSE, self._at({}), self.size)]
        for ratios in variants:
            name = self._names.setdefault(tuple(sorted(ratios.items())), f"variant {len(self._names) + 1}")
            networks.append(Network(name, self._at(ratios), self.size))
        rows = time_rivals(
            networks, [self.form], _part(self.model), self.batch, self.threads, self.rounds, self.warmup, self.folder,
            self.progress,
        )  # fmt: skip
        for row in rows:
            if not row.times:
                raise ValueError(f"The network does not run as {self.form}: {row.why}")
        return rows

    def time_surely(self, ratios: Ratios) -> list[Row]:
        """The dense network and one variant, in more rounds while a noisy machine leaves their ratio uncertain."""
        rows = self.time(ratios)
        for _ in range(REPEATS):
            if share_of(*reversed(rows))[1] <= SURE:
                break
            rows = [replace(a, times=a.times + b.times) for a, b in zip(rows, self.time(ratios), strict=True)]
        return rows

    def _at(self, ratios: Ratios) -> nn.Module:
        model = copy.deepcopy(self.model)
        for dial, ratio in dials_at(model, ratios).items():
            dial.keep_ratio = ratio
        return model

    def macs(self, ratios: Ratios) -> int:
        program = Program(self.model, _part(self.model)).eval()
        with budgets(dials_at(self.model, ratios)):
            return program.macs([torch.zeros(self.batch, 3, *self.size)])

    def measure(
        self,
        places: Sequence[str],
        ratios: Sequence[float],
        timed: bool = True,
        evaluate: Callable[[Ratios], float] | None = None,
    ) -> Group:
        """A group at several ratios; the lowest and the highest of them are timed, for time is a line between them."""
        ratios = sorted(ratios)
        rows, dense = {}, self.macs({})
        if timed:
            ends = sorted({ratios[0], ratios[-1]})
            first, *others = self.time(*(dict.fromkeys(places, ratio) for ratio in ends))
            rows = dict(zip(ends, others, strict=True))
        at = []
        for ratio in ratios:
            given = dict.fromkeys(places, ratio)
            share, error = share_of(rows[ratio], first) if ratio in rows else (None, 0.0)
            metric = evaluate(given) if evaluate else None
            at.append(Measured(ratio, self.macs(given) / dense, metric, share, error))
        return Group(list(places), at)


def share_of(row: Row, dense: Row) -> tuple[float, float]:
    """Share of the dense network's time, median of the rounds' ratios, and the standard error of that."""
    ratios = np.divide(row.times, dense.times)
    low, median, high = np.percentile(ratios, (25, 50, 75))
    return float(median), float(0.93 * (high - low) / math.sqrt(len(ratios)))
