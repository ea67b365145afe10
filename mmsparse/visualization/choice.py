"""Curves of what the slow path holds, by keep ratio, a panel a place; and the metric by who chooses."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

LINES = {"own": ("own scores", "tab:blue", "-"), "norm": ("features' norm", "tab:orange", "--"),
         "random": ("chance", "tab:gray", ":")}  # fmt: skip
SAYS = {
    "centres": "objects with their centre\non the slow path",
    "edges": "pixels at edges of labels\non the slow path",
}
COLUMNS = 4


def draw_shares(
    path: str | Path,
    shares: Mapping[str, Mapping[str, Mapping[float, Mapping[str, float]]]],
    budgets: Mapping[str, float],
    metrics: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Write a PNG.

    Args:
        path: Of the picture.
        shares: What ``analysis.choice.shares`` gives.
        budgets: The keep ratio of each place; a vertical line shows it.
        metrics: By who chooses; the first of each is drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(shares) // COLUMNS)
    height = 2.6 * rows + (0.9 + 0.28 * len(metrics) if metrics else 0)
    figure = Figure(figsize=(3.2 * COLUMNS, height + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    top, *below = figure.subfigures(2, 1, height_ratios=[2.6 * rows, height - 2.6 * rows]) if metrics else [figure]
    panels = top.subplots(rows, COLUMNS, squeeze=False, sharey=True).flatten()
    for panel, (place, kinds) in zip(panels, shares.items(), strict=False):
        what = next(iter(next(iter(kinds["own"].values()))))
        for kind, (name, colour, style) in LINES.items():
            points = sorted((ratio, at) for ratio, at in kinds[kind].items() if ratio != "budget")
            panel.plot([0, *(r for r, _ in points), 1], [0, *(at[what] for _, at in points), 1], style, color=colour,
                       label=name)  # fmt: skip
        if place in budgets:
            panel.axvline(budgets[place], color="black", linewidth=0.8)
        panel.set(title=place, xlim=(0, 1), ylim=(0, 1.02), xlabel="keep ratio (line: its budget)")
    panels[0].legend(loc="lower right", fontsize="small")
    for row in range(rows):
        panels[row * COLUMNS].set_ylabel("share of " + SAYS.get(what, what))
    for panel in panels[len(shares) :]:
        panel.set_visible(False)
    if metrics:
        _draw_metrics(below[0].subplots(), metrics)
    figure.savefig(path, dpi=100)


def _draw_metrics(axes: Any, metrics: Mapping[str, Mapping[str, float]]) -> None:
    name = next(iter(next(iter(metrics.values()))))
    values = [found[name] for found in metrics.values()]
    colours = ["tab:blue", *["lightgray"] * (len(values) - 1)]
    bars = axes.barh(list(metrics), values, color=colours)
    axes.bar_label(bars, fmt="%.3f", padding=3)
    axes.invert_yaxis()
    axes.set(xlabel=name, title="who chooses", xlim=(0, max(values) * 1.12 or 1))
