"""A metric against time: who is ahead at which time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MARKS = "os^Dv<>Pp*"


@dataclass(frozen=True)
class Point:
    """A network that was trained and timed. Those of one series are joined: a family of widths, a network's budgets."""

    series: str
    name: str
    ms: float
    metric: float


def front(points: Iterable[Point]) -> list[Point]:
    """Those that nobody beats in both, the quickest first."""
    ahead: list[Point] = []
    for point in sorted(points, key=lambda p: (p.ms, -p.metric)):
        if not ahead or point.metric > ahead[-1].metric:
            ahead.append(point)
    return ahead


def draw_front(path: str | Path, points: Sequence[Point], metric: str, time: str) -> None:
    """Write a PNG.

    Args:
        path: Of the picture.
        points: What to draw.
        metric: What the vertical axis says.
        time: What the horizontal one says besides milliseconds.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    ahead = front(points)
    steps = [*ahead, Point("", "", max(point.ms for point in points), ahead[-1].metric)]
    axes.step([p.ms for p in steps], [p.metric for p in steps], where="post", color="0.8", linewidth=6, zorder=0,
              label="the front: best up to a time")  # fmt: skip
    for number, series in enumerate(dict.fromkeys(point.series for point in points)):
        members = sorted((point for point in points if point.series == series), key=lambda point: point.ms)
        axes.plot([p.ms for p in members], [p.metric for p in members], marker=MARKS[number % len(MARKS)], label=series)
    for point in points:
        axes.annotate(point.name, (point.ms, point.metric), (4, 4), textcoords="offset points", fontsize="x-small")
    axes.set(xlabel=f"ms, {time}", ylabel=metric)
    axes.legend(loc="lower right", fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
