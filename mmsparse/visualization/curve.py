"""A metric against arithmetic, of one checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_curve(path: str | Path, found: Sequence[Mapping[str, Any]]) -> None:
    """Write a PNG.

    Args:
        path: Of the picture.
        found: Points with ``macs`` and ``metrics``, the dense network's first; those without are left out.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [point for point in found if "metrics" in point]
    name = next(iter(points[0]["metrics"]))
    shares = [100 * point["macs"] / points[0]["macs"] for point in points]
    values = [point["metrics"][name] for point in points]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axhline(values[0], color="0.7", linewidth=0.8)
    axes.plot(shares, values, marker="o")
    for share, value in zip(shares, values, strict=True):
        axes.annotate(f"{value:.3f}", (share, value), (0, 6), textcoords="offset points", fontsize="small")
    axes.set(xlabel="arithmetic, % of the dense network's (right: everything kept)", ylabel=name)
    axes.set_ylim(0, 1.12 * max(values) or 1)
    axes.margins(x=0.1)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
