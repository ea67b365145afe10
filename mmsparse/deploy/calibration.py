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
STEP = 0.01  # of the ratios that are considered, between the lowest and the highest that were measured
BIN = 0.0005  # of the dense network's cost
TIE = 0.01  # relative loss of the metric that all of the arithmetic counts for: among equals, the most is kept


class OutOfReachError(ValueError):
    """No ratios that were measured get so low."""


@dataclass(frozen=True)
class Measured:
    """The network with some places at one keep ratio.

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


DENSE_ITSELF = Measured(1.0, 1.0, None, 1.0)


@dataclass(frozen=True)
class Group:
    """Places that get one keep ratio, and what the network costs and reaches with them at several.

    Args:
        places: Their names.
        at: By rising ratio, all below 1.
        whole: Kept whole; where all others are, too, that is the dense network.
        base: The ratio at which the places were while those of other groups were measured.
    """

    places: Sequence[str]
    at: Sequence[Measured]
    whole: Measured = DENSE_ITSELF
    base: float = 1.0

    @classmethod
    def read(cls, page: Mapping[str, Any]) -> "Group":
        at = [Measured(**each) for each in page["at"]]
        return cls(page["places"], at, Measured(**page["whole"]), page["base"])

    def pays(self) -> bool:
        """Whether it is certainly faster than whole at the least of its ratios."""
        timed = [each for each in self.at if each.time is not None]
        return not timed or timed[0].time + CERTAIN * math.hypot(timed[0].error, self.whole.error) < self.whole.time

    def known(self, keep_ratio: float) -> Measured:
        return next((each for each in self.at if each.keep_ratio == keep_ratio), self.whole)

    def cost(self, keep_ratio: float, kind: str) -> float:
        """Share of the dense cost, "time" or "macs": between the ratios that were measured a line that never falls."""
        if keep_ratio >= 1.0:
            return getattr(self.whole, kind)
        known = [(each.keep_ratio, getattr(each, kind)) for each in self.at if getattr(each, kind) is not None]
        ratios, costs = zip(*known, strict=True)
        return float(np.interp(keep_ratio, ratios, np.maximum.accumulate(costs)))

    def loss(self, keep_ratio: float, dense: float | None) -> float:
        """Share of the dense network's metric that is lost; without one, of arithmetic.

        Below the base it never is less at a lower ratio, and never a gain. Above it a network that was trained at its
        base may gain or lose.
        """
        removed = self.whole.macs - self.cost(keep_ratio, "macs")
        if dense is None:
            return removed
        at = [*self.at, self.whole]
        most = dense if self.known(self.base).metric is None else self.known(self.base).metric
        lost = [0.0 if each.metric is None else (most - each.metric) / dense for each in at]
        here = next(i for i, each in enumerate(at) if each.keep_ratio == self.base)
        below = np.maximum.accumulate([0.0, *lost[:here][::-1]])[::-1]
        return float(np.interp(keep_ratio, [e.keep_ratio for e in at], [*below, *lost[here + 1 :]])) + TIE * removed

    def options(self, kind: str, dense: float | None) -> list[tuple[float, float, float]]:
        """Ratios with what they save and lose more than to keep all of it, which is the first."""
        found = [(1.0, 0.0, 0.0)]
        kept = self.loss(1.0, dense)
        if kind == "time" and not self.pays():
            return found
        least, error = self.at[0].keep_ratio, max(each.error for each in self.at)
        whole, ratios = self.cost(1.0, kind), [each.keep_ratio for each in self.at]
        ratios += [round(STEP * i, 4) for i in range(1, round(1 / STEP)) if least < STEP * i <= ratios[-1]]
        for ratio in sorted(set(ratios)):
            saved = whole - self.cost(ratio, kind)
            if saved > CERTAIN * error:
                found.append((ratio, saved, self.loss(ratio, dense) - kept))
        return found


@dataclass(frozen=True)
class Solution:
    """Ratios, and what they should cost and reach."""

    ratios: dict[str, float]
    cost: float
    loss: float


def levelled(groups: Sequence[Group]) -> list[Group]:
    """The same, as if at their common base all had taken the same time: the median of what they took.

    What is timed in turn is comparable; from one call to the next a machine may run the dense network otherwise.
    """
    bases = [group.known(group.base).time for group in groups]
    if None in bases or not bases:
        return list(groups)
    level = float(np.median(bases))

    def scaled(each: Measured, by: float) -> Measured:
        return each if each.time is None else replace(each, time=each.time * by, error=each.error * by)

    return [
        replace(group, at=[scaled(each, level / base) for each in group.at], whole=scaled(group.whole, level / base))
        for group, base in zip(groups, bases, strict=True)
    ]


def nothing_routed(groups: Sequence[Group], kind: str, dense: float | None) -> Solution:
    """What all groups kept whole should cost and lose: what was measured at their bases, and what that saves and loses.

    Where the base is the dense network this is 1 and 0.
    """
    cost, loss = 1.0, 0.0
    if groups and any(group.base < 1.0 for group in groups):
        at = [group.known(group.base) for group in groups]
        cost = getattr(at[0], kind)
        removed = 1.0 - at[0].macs
        loss = removed if dense is None else 1.0 - at[0].metric / dense + TIE * removed
    for group in groups:
        cost += group.cost(1.0, kind) - group.cost(group.base, kind)
        loss += group.loss(1.0, dense) - group.loss(group.base, dense)
    return Solution({place: 1.0 for group in groups for place in group.places}, cost, loss)


def solve(groups: Sequence[Group], limit: float, kind: str, dense: float | None = None) -> Solution:
    """The ratios that lose least among those that cost no more than a share of the dense network's.

    What groups save and lose adds up.

    Args:
        groups: What was measured.
        limit: The share.
        kind: Of "time" or of "macs".
        dense: Metric of the dense network; None: what is lost is arithmetic.
    """
    groups = levelled(groups)
    options = [group.options(kind, dense) for group in groups]
    whole = nothing_routed(groups, kind, dense)
    bins = max(0, math.ceil((whole.cost - limit) / BIN - 1e-6))
    floor = whole.cost - sum(max(saved for _, saved, _ in each) for each in options)
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
    return Solution(ratios, whole.cost - saved, whole.loss + lost)


def trade_off(groups: Sequence[Group], kind: str, dense: float | None, points: int = 40) -> list[Solution]:
    """The best choices from the dense network down to the floor."""
    found = []
    for limit in np.linspace(1.0, 0.0, points):
        try:
            found.append(solve(groups, float(limit), kind, dense))
        except OutOfReachError:
            break
    return found


def what_pays(groups: Sequence[Group]) -> dict[str, float]:
    """Each place at the least ratio that was measured, or whole where that is not certainly faster."""
    return {place: group.at[0].keep_ratio if group.pays() else 1.0 for group in groups for place in group.places}


def groups_of(model: nn.Module, size: Size) -> list[list[str]]:
    """The places of a model as they are measured: each alone, or with others of its part and ratio if they save little.

    Args:
        model: In evaluation.
        size: Of a picture.
    """
    picture, program = [torch.zeros(1, 3, *size)], Program(model, _part(model)).eval()
    with dense_twin(model):
        dense = program.macs(picture)
    groups: dict[Any, list[str]] = {}
    for part, router in find_routers(model).items():
        for dial in router.dials:
            with dense_twin(model), budgets({dial: 0.5}):
                saves = 1.0 - program.macs(picture) / dense
            key = dial.name if saves >= FEW else (part, dial.keep_ratio)
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
        base: Ratios | None = None,
        timed: bool = True,
        evaluate: Callable[[Ratios], float] | None = None,
    ) -> Group:
        """A group at several ratios and whole, all other places at their base; without one they are kept whole.

        Timed are the ends and the base: between them time is a line.
        """
        base = base or {}
        own = base.get(places[0], 1.0)
        below = sorted({*ratios, own} - {1.0})
        given = {ratio: {**base, **dict.fromkeys(places, ratio)} for ratio in ([*below, 1.0] if base else below)}
        rows = {}
        if timed:
            ends = sorted({below[0], below[-1], own, 1.0} & given.keys())
            dense, *others = self.time(*(given[ratio] for ratio in ends))
            rows = dict(zip(ends, others, strict=True))
        at = {}
        for ratio, each in given.items():
            share, error = share_of(rows[ratio], dense) if ratio in rows else (None, 0.0)
            metric = evaluate(each) if evaluate else None
            at[ratio] = Measured(ratio, self.macs(each) / self.macs({}), metric, share, error)
        return Group(list(places), [at[ratio] for ratio in below], at.get(1.0, DENSE_ITSELF), own)


def share_of(row: Row, dense: Row) -> tuple[float, float]:
    """Share of the dense network's time, median of the rounds' ratios, and the standard error of that."""
    ratios = np.divide(row.times, dense.times)
    low, median, high = np.percentile(ratios, (25, 50, 75))
    return float(median), float(0.93 * (high - low) / math.sqrt(len(ratios)))
