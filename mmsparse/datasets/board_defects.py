"""Puts defects into a board's conductors, each where it makes sense and so that it is what its name says.

A defect is a blob added to the conductors or taken from them. It is drawn, checked in the window around it (what it
touches, what holds together before and after) and kept or thrown away.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from .board_layout import Layout, draw_direction
from .board_style import (
    BITE_LEFT,
    BITE_RADIUS,
    CLEARANCE,
    ISLAND_RADIUS,
    MARGIN,
    OPEN_GAP,
    PINHOLE_RADIUS,
    SHORT_REACH,
    SHORT_WIDTH,
    SPUR_RADIUS,
)

KINDS = ("open", "short", "mousebite", "spur", "copper", "pin-hole")
MIN_PIXELS = 10
_TRIES = 150  # places, for each kind
_AROUND = 12  # pixels of a window around a blob
_SEARCH = 40  # pixels from the middle of a conductor to its edge
_SHIFT = 4
_GROWN = np.ones((2 * CLEARANCE + 1, 2 * CLEARANCE + 1), np.uint8)
_ONE = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class Defect:
    """``category`` indexes KINDS, ``bbox`` = (x, y, w, h), ``mask`` (h, w) are the pixels that changed in it."""

    category: int
    bbox: tuple[int, int, int, int]
    mask: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        x, y, w, h = self.bbox
        return slice(y, y + h), slice(x, x + w)


@dataclass(frozen=True)
class _Edit:
    """A blob (N, 2) in pixels that becomes copper or ceases to be it."""

    blob: np.ndarray
    adds: bool


def add_defects(rng: np.random.Generator, layout: Layout, count: int) -> tuple[np.ndarray, tuple[Defect, ...]]:
    """The conductors (S, S) with ``count`` defects, or with fewer if no place is found for more."""
    bench = _Bench(layout)
    for _ in range(count if len(layout.traces) else 0):
        # Kinds are equally frequent; one that finds no place gives way to the next.
        for kind in rng.permutation(len(KINDS)):
            if any(bench.attempt(rng, int(kind)) for _ in range(_TRIES)):
                break
    return bench.copper, tuple(bench.defects)


class _Bench:
    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.copper, self.defects = layout.copper.copy(), []
        solid = (layout.copper > 127).astype(np.uint8)
        # Which net a pixel belongs to, 0 for none; (nets, 5) boxes and areas.
        _, self.nets, self.extents, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
        self.weights = np.cumsum(np.hypot(*(layout.traces[:, 2:4] - layout.traces[:, :2]).T))
        self.proposals: tuple[Callable[[np.random.Generator], _Edit | None], ...] = (
            self.propose_open, self.propose_short, self.propose_bite,
            self.propose_spur, self.propose_island, self.propose_pinhole,
        )  # fmt: skip
        self.checks = (
            self.splits_a_net, self.joins_two_nets, self.keeps_nets,
            self.keeps_nets, self.touches_nothing, self.is_enclosed,
        )  # fmt: skip

    def attempt(self, rng: np.random.Generator, category: int) -> bool:
        edit = self.proposals[category](rng)
        if edit is None:
            return False
        size = len(self.copper)
        low = np.floor(edit.blob.min(axis=0)).astype(int) - _AROUND
        high = np.ceil(edit.blob.max(axis=0)).astype(int) + _AROUND
        if (low < 0).any() or (high > size).any():
            return False
        window = (slice(low[1], high[1]), slice(low[0], high[0]))
        drawn = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        fixed = np.round((edit.blob - low) * 2**_SHIFT).astype(np.int32)
        cv2.fillPoly(drawn, [fixed], 255, cv2.LINE_AA, _SHIFT)
        old = self.copper[window]
        new = cv2.max(old, drawn) if edit.adds else cv2.min(old, 255 - drawn)
        changed = (new > 127) != (old > 127)
        if changed.sum() < MIN_PIXELS:
            return False
        ys, xs = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        x, y = int(low[0] + xs[0]) - MARGIN, int(low[1] + ys[0]) - MARGIN
        w, h = int(xs[-1] - xs[0]) + 1 + 2 * MARGIN, int(ys[-1] - ys[0]) + 1 + 2 * MARGIN
        near = cv2.dilate(changed.astype(np.uint8), _GROWN) > 0
        new = np.where(near, new, old)  # no faint edge is left beside what counts
        printed = cv2.max(self.layout.silk[window], self.layout.holes[window]) > 30
        crowded = any(
            x < bx + bw and bx < x + w and y < by + bh and by < y + h
            for bx, by, bw, bh in (defect.bbox for defect in self.defects)
        )
        if crowded or (printed & near).any() or not self.checks[category](window, changed, near):
            return False
        self.copper[window] = new
        box = (slice(y - low[1], y - low[1] + h), slice(x - low[0], x - low[0] + w))
        self.defects.append(Defect(category, (x, y, w, h), changed[box].copy()))
        return True

    # Checks: of the pixels ``changed`` in a window, and ``near`` them.

    def touched(self, window: tuple[slice, slice], where: np.ndarray) -> np.ndarray:
        found = np.unique(self.nets[window][where])
        return found[found > 0]

    def splits_a_net(self, window: tuple[slice, slice], changed: np.ndarray, near: np.ndarray) -> bool:
        touched = self.touched(window, changed)
        if len(touched) != 1:
            return False
        left, top, w, h, _ = self.extents[touched[0]]
        net = (self.nets[top : top + h, left : left + w] == touched[0]).astype(np.uint8)
        ys, xs = np.nonzero(changed & (self.nets[window] == touched[0]))
        net[ys + window[0].start - top, xs + window[1].start - left] = 0
        return _pieces(net, 8) == 2

    def joins_two_nets(self, window: tuple[slice, slice], changed: np.ndarray, near: np.ndarray) -> bool:
        touching = cv2.dilate(changed.astype(np.uint8), _ONE) > 0
        return len(self.touched(window, touching)) == len(self.touched(window, near)) == 2

    def keeps_nets(self, window: tuple[slice, slice], changed: np.ndarray, near: np.ndarray) -> bool:
        """One net is touched, and neither it nor what is around it falls apart, not even with a pixel more."""
        if len(self.touched(window, near)) != 1:
            return False
        solid = (self.nets[window] > 0).astype(np.uint8)
        parts = _pieces(solid, 8), _pieces(1 - solid, 4)
        exact = changed.astype(np.uint8)
        for blob in (exact, cv2.dilate(exact, _ONE)):
            after = cv2.min(solid, 1 - blob) if solid[changed].any() else cv2.max(solid, blob)
            if (_pieces(after, 8), _pieces(1 - after, 4)) != parts:
                return False
        return True

    def touches_nothing(self, window: tuple[slice, slice], changed: np.ndarray, near: np.ndarray) -> bool:
        return len(self.touched(window, near)) == 0

    def is_enclosed(self, window: tuple[slice, slice], changed: np.ndarray, near: np.ndarray) -> bool:
        rim = cv2.dilate(changed.astype(np.uint8), _ONE, iterations=2) > 0
        return bool((self.nets[window][rim] > 0).all()) and _pieces(changed.astype(np.uint8), 4) == 1

    # Proposals.

    def propose_open(self, rng: np.random.Generator) -> _Edit | None:
        point, along, width = self.trace_point(rng)
        across = np.array([-along[1], along[0]])
        half = rng.uniform(*OPEN_GAP) / 2
        sides = np.linspace(-1, 1, 5) * (width / 2 + 3)
        lean = rng.uniform(-0.4, 0.4)
        first = -half + lean * sides + rng.normal(0, 0.6, 5)
        second = half + lean * sides + rng.normal(0, 0.6, 5)
        return _Edit(_strip(point, along, across, first, second, sides), adds=False)

    def propose_short(self, rng: np.random.Generator) -> _Edit | None:
        point, out = self.any_point(rng)
        start = self.march(point, out, copper=False)
        if start is None:
            return None
        gap = self.march(point + (start + 1) * out, out, copper=True)
        if gap is None or gap > SHORT_REACH:
            return None
        lengths = np.linspace(start - 1.5, start + 1 + gap + 1.5, 6)
        half = rng.uniform(*SHORT_WIDTH) / 2
        bend = rng.normal(0, 0.8, 6)
        across = np.array([-out[1], out[0]])
        return _Edit(_strip(point, across, out, bend - half, bend + half + rng.normal(0, 0.5, 6), lengths), adds=True)

    def propose_bite(self, rng: np.random.Generator) -> _Edit | None:
        point, out = self.any_point(rng)
        edge = self.march(point, out, copper=False)
        behind = self.march(point, -out, copper=False)
        if edge is None:
            return None
        thick = edge + (behind if behind is not None else _SEARCH)
        radius = rng.uniform(*BITE_RADIUS)
        depth = min(radius * rng.uniform(0.7, 1.2), thick - BITE_LEFT)
        return _Edit(point + (edge - depth + radius) * out + _blob(rng, radius, out), adds=False)

    def propose_spur(self, rng: np.random.Generator) -> _Edit | None:
        point, out = self.any_point(rng)
        edge = self.march(point, out, copper=False)
        if edge is None:
            return None
        radius = rng.uniform(*SPUR_RADIUS)
        return _Edit(point + (edge + radius * rng.uniform(-0.3, 0.6)) * out + _blob(rng, radius, out), adds=True)

    def propose_island(self, rng: np.random.Generator) -> _Edit | None:
        low, high = np.log(ISLAND_RADIUS)
        place = rng.uniform(0, len(self.copper), 2)
        return _Edit(place + _blob(rng, float(np.exp(rng.uniform(low, high))), draw_direction(rng)), adds=True)

    def propose_pinhole(self, rng: np.random.Generator) -> _Edit | None:
        point, out = self.any_point(rng)
        return _Edit(point + out * rng.uniform(-2, 2) + _blob(rng, rng.uniform(*PINHOLE_RADIUS), out), adds=False)

    # Where to look.

    def trace_point(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
        """A point on a trace, the direction that the trace runs in, its width."""
        number = np.searchsorted(self.weights, rng.uniform(0, self.weights[-1]))
        start, end, width = (
            self.layout.traces[number, :2],
            self.layout.traces[number, 2:4],
            self.layout.traces[number, 4],
        )
        along = (end - start) / np.hypot(*(end - start))
        return start + rng.uniform(0, 1) * (end - start), along, float(width)

    def any_point(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A point in a conductor and a direction to leave it in."""
        kind = rng.random()
        if kind < 0.7 or not len(self.layout.pads):
            point, along, _ = self.trace_point(rng)
            return point, np.array([-along[1], along[0]]) * rng.choice((-1, 1))
        if kind < 0.85:
            x, y, half = self.layout.pads[rng.integers(len(self.layout.pads))]
            return np.array([x, y]) + rng.uniform(-0.7, 0.7, 2) * half, draw_direction(rng)
        return rng.uniform(0, len(self.copper), 2), draw_direction(rng)

    def march(self, point: np.ndarray, out: np.ndarray, copper: bool) -> float | None:
        """How far it is from a point of the other kind to the first pixel that is copper, or is not."""
        ways = np.round(point + np.arange(_SEARCH)[:, None] * out).astype(int)
        if (ways < 0).any() or (ways >= len(self.copper)).any():
            return None
        solid = self.copper[ways[:, 1], ways[:, 0]] > 127
        if solid[0] == copper or (solid == solid[0]).all():
            return None
        return float(np.argmax(solid == copper))


def _pieces(mask: np.ndarray, connectivity: int) -> int:
    return cv2.connectedComponents(mask, connectivity=connectivity)[0] - 1


def _strip(
    point: np.ndarray, along: np.ndarray, across: np.ndarray, first: np.ndarray, second: np.ndarray, sides: np.ndarray
) -> np.ndarray:
    """Between two ragged lines: at ``sides`` across, from ``first`` to ``second`` along."""
    lines = [point + edge[:, None] * along + sides[:, None] * across for edge in (first, second)]
    return np.concatenate([lines[0], lines[1][::-1]])


def _blob(rng: np.random.Generator, radius: float, axis: np.ndarray) -> np.ndarray:
    """A bumpy, somewhat stretched round outline (N, 2) around the origin; ``radius`` is that along ``axis``."""
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    bumps = 1 + sum(
        rng.normal(0, 0.16 / order) * np.cos(order * turns + rng.uniform(0, 2 * np.pi)) for order in (2, 3, 4)
    )
    across = radius * rng.uniform(0.7, 1.8)
    return (np.cos(turns) * bumps * radius)[:, None] * axis + (np.sin(turns) * bumps * across)[:, None] * np.array(
        [-axis[1], axis[0]]
    )
