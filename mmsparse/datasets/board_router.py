"""Places components on a grid and routes traces between them: whole numbers of nodes, no pixels yet.

A trace never meets another: each net is a tree of paths, so that a cut anywhere on a path splits it.
"""

from dataclasses import dataclass, field

import numpy as np

Node = tuple[int, int]
STEPS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))  # odd ones are diagonal

NODES_PER_COMPONENT = 100
NODES_PER_BUNDLE = 14
BRANCH_SHARE = 0.2  # of the bundles that start anywhere; the rest start at vias
VIA_SHARE = 0.9  # of the loose ends that have room for one
PLAN_TURNS = (0, 1, 1, 2, 2, 3)


@dataclass(frozen=True)
class Pad:
    """``size`` = (along ``direction``, across it) in nodes; ``hole`` is its radius, 0 for none."""

    node: Node
    direction: int
    size: tuple[float, float]
    rounded: bool
    hole: float = 0.0


@dataclass
class Wiring:
    """``paths`` are corners and a width's number; ``bodies`` are corners of what is printed on the board."""

    paths: list[tuple[list[Node], int]] = field(default_factory=list)
    pads: list[Pad] = field(default_factory=list)
    vias: list[Node] = field(default_factory=list)
    bodies: list[tuple[Node, Node]] = field(default_factory=list)


class _Grid:
    """Which nodes are taken, and which cells between four nodes may hold no (further) diagonal."""

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self.taken, self.closed = bytearray(nodes * nodes), bytearray(nodes * nodes)

    def is_free(self, x: int, y: int) -> bool:
        return 0 < x < self.nodes - 1 and 0 < y < self.nodes - 1 and not self.taken[y * self.nodes + x]

    def step(self, node: Node, direction: int) -> Node | None:
        """The next node if it is free; it is taken from then on."""
        (x, y), (dx, dy) = node, STEPS[direction]
        if not self.is_free(x + dx, y + dy):
            return None
        if direction % 2:
            cell = min(y, y + dy) * self.nodes + min(x, x + dx)
            if self.closed[cell]:
                return None
            self.closed[cell] = 1
        self.taken[(y + dy) * self.nodes + x + dx] = 1
        return x + dx, y + dy

    def cells(self, node: Node) -> list[int]:
        x, y = node
        return [cy * self.nodes + cx for cy in (y - 1, y) for cx in (x - 1, x)]

    def reserve(self, node: Node) -> None:
        """Take a node for something wider than a trace: no diagonal passes beside it."""
        self.taken[node[1] * self.nodes + node[0]] = 1
        for cell in self.cells(node):
            self.closed[cell] = 1


def route(rng: np.random.Generator, nodes: int, pad_width: tuple[float, float], rounded: float, widths: int) -> Wiring:
    """A board of ``nodes`` x ``nodes``, as full as they let it be."""
    grid, wiring = _Grid(nodes), Wiring()
    rows: list[list[Pad]] = []
    for _ in range(max(2, nodes * nodes // NODES_PER_COMPONENT)):
        rows += _place(rng, grid, wiring, float(rng.uniform(*pad_width)), bool(rng.random() < rounded))
    for row in rows:
        _route_row(rng, grid, wiring, row, widths)
    for _ in range(nodes * nodes // NODES_PER_BUNDLE):
        _route_anywhere(rng, grid, wiring, widths)
    return wiring


def _place(rng: np.random.Generator, grid: _Grid, wiring: Wiring, width: float, rounded: bool) -> list[list[Pad]]:
    """Put down one component where nothing lies; returns its rows of pads, each with one direction to leave in."""
    kind = rng.choice(4, p=(0.35, 0.1, 0.35, 0.2))
    if kind == 0:  # two rows of pins
        columns, depth = int(rng.integers(3, 11)), int(rng.integers(5, 8))
        spots = [(x, y, 6 if y == 0 else 2) for y in (0, depth) for x in range(columns)]
    elif kind == 1:  # pins on four sides
        columns = int(rng.integers(4, 10))
        depth, last = columns + 3, columns + 1
        spots = [(x, y, 6 if y == 0 else 2) for y in (0, depth) for x in range(2, last + 1)]
        spots += [(x, y, 4 if x == 0 else 0) for x in (0, depth) for y in range(2, last + 1)]
    elif kind == 2:  # a resistor or a capacitor
        spots = [(0, 0, 6), (0, int(rng.integers(3, 5)), 2)]
    else:  # a plug
        columns, lines = int(rng.integers(1, 7)), int(rng.integers(1, 4))
        spots = [(2 * x, 2 * y, int(2 * rng.integers(4))) for y in range(lines) for x in range(columns)]
    if rng.random() < 0.5:  # a quarter turn
        spots = [(y, x, (2 - direction) % 8) for x, y, direction in spots]
    right, below = max(x for x, _, _ in spots), max(y for _, y, _ in spots)
    left, top = (int(v) for v in rng.integers(1, grid.nodes - 2, 2))
    box = [(x, y) for y in range(top - 2, top + below + 3) for x in range(left - 2, left + right + 3)]
    if not all(grid.is_free(x, y) for x, y in box):
        return []
    size = ((1.6, width), (1.6, width), (0.95, 1.15), (1.1, 1.1))[kind]
    pads = [
        Pad((left + x, top + y), direction, size, bool(rounded or kind == 3), 0.26 if kind == 3 else 0.0)
        for x, y, direction in spots
    ]
    for pad in pads:
        dx, dy = STEPS[pad.direction]
        for ahead in (0,) if kind == 3 else (-1, 0, 1):
            grid.reserve((pad.node[0] + ahead * dx, pad.node[1] + ahead * dy))
    wiring.pads += pads
    wiring.bodies.append(((left, top), (left + right, top + below)))
    return [[pad for pad in pads if pad.direction == direction] for direction in range(0, 8, 2)]


def _route_row(rng: np.random.Generator, grid: _Grid, wiring: Wiring, row: list[Pad], widths: int) -> None:
    plan, width = _draw_plan(rng, grid.nodes), int(rng.integers(widths))
    for pad in row:
        if rng.random() < 0.1:
            plan = _draw_plan(rng, grid.nodes)
        if rng.random() < 0.88:
            out, (dx, dy) = int(not pad.hole), STEPS[pad.direction]
            start = (pad.node[0] + out * dx, pad.node[1] + out * dy)
            _walk(rng, grid, wiring, [pad.node, start] if out else [start], pad.direction, plan, width)


def _route_anywhere(rng: np.random.Generator, grid: _Grid, wiring: Wiring, widths: int) -> None:
    """A bundle of parallel traces that start at vias, or a branch of a trace."""
    plan, width = _draw_plan(rng, grid.nodes), int(rng.integers(widths))
    if wiring.paths and rng.random() < BRANCH_SHARE:
        corners, width = wiring.paths[rng.integers(len(wiring.paths))]
        _walk(rng, grid, wiring, [corners[rng.integers(len(corners))]], int(2 * rng.integers(4)), plan, width)
        return
    x, y = (int(v) for v in rng.integers(1, grid.nodes - 1, 2))
    direction = int(2 * rng.integers(4))
    dx, dy = STEPS[(direction + 2) % 8]
    for number in range(rng.integers(1, 6)):
        node = (x + number * dx, y + number * dy)
        if grid.is_free(*node) and not any(grid.closed[cell] for cell in grid.cells(node)):
            grid.reserve(node)
            wiring.vias.append(node)
            _walk(rng, grid, wiring, [node], direction, plan, width)


def _draw_plan(rng: np.random.Generator, nodes: int) -> list[tuple[int, int]]:
    """(turn, steps), ...: straight on, an eighth turn, and often back into the first direction."""
    plan = [(0, int(rng.integers(1, 8)))]
    turn = int(rng.choice((-1, 1)))
    for _ in range(rng.choice(PLAN_TURNS)):
        plan += [(turn, int(rng.integers(1, 7))), (-turn, int(rng.integers(2, max(4, nodes // 3))))]
        turn = int(rng.choice((-1, 1)))
    return plan


def _walk(
    rng: np.random.Generator,
    grid: _Grid,
    wiring: Wiring,
    corners: list[Node],
    direction: int,
    plan: list[tuple[int, int]],
    width: int,
) -> None:
    """Follow a plan from the last corner as far as the nodes are free, dodging once by an eighth turn."""
    node, length, dodged, heading = corners[-1], 0, False, direction
    for turn in (turn for first, steps in plan for turn in (first, *[0] * (steps - 1))):
        direction = (direction + turn) % 8
        ahead = grid.step(node, direction)
        if ahead is None and length and not dodged:
            dodged = True
            direction = (direction + int(rng.choice((-1, 1)))) % 8
            ahead = grid.step(node, direction)
        if ahead is None:
            break
        if direction != heading and length:
            corners.append(node)
        node, length, heading = ahead, length + 1, direction
    if length:
        corners.append(node)
    if len(corners) < 2:
        return
    wiring.paths.append((corners, width))
    cells = [cell for cell in grid.cells(node) if grid.closed[cell]]
    own = 1 if length and heading % 2 else 0  # the diagonal that it came by
    if length > 1 and len(cells) <= own and rng.random() < VIA_SHARE:
        grid.reserve(node)
        wiring.vias.append(node)
