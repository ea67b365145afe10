"""What a network's metric should be at each cost, where it came to stand, and which ratio each place got."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmsparse.deploy.calibration import Group, trade_off


def draw_calibration(
    path: str | Path, groups: Sequence[Group], kind: str, dense: Mapping[str, Any], chosen: Mapping[str, Any]
) -> None:
    """Write a PNG.

    Args:
        path: Of the picture.
        groups: What was measured.
        kind: "time" or "macs".
        dense: Figures of the dense network, and the name of its metric.
        chosen: What was chosen, what it should cost and what it does.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 1.6 + max(3.4, 0.32 * len(groups))), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    whole = dense["metric"]
    curve = trade_off(groups, kind, whole)
    value = (lambda loss: 1.0 - loss) if whole is None else (lambda loss: whole * (1.0 - loss))
    left.plot([s.cost for s in curve], [value(s.loss) for s in curve], color="tab:blue", label="best predicted")
    left.plot(1.0, value(0.0), "o", color="black", label="dense")
    if chosen["predicted_loss"] is not None:
        left.plot(chosen["predicted"], value(chosen["predicted_loss"]), "o", color="tab:red", fillstyle="none",
                  markersize=9, label="chosen, predicted")  # fmt: skip
    reached = chosen["metric"] if chosen.get("metric") is not None else chosen["macs"]
    left.plot(chosen["reached"], reached, "o", color="tab:red", label="chosen, measured")
    what = "time" if kind == "time" else "arithmetic"
    left.set(xlabel=f"share of the dense network's {what}", ylabel=dense["name"] or "share of the arithmetic")
    left.set_ylim(0.95 * left.get_ylim()[0], 1.02 * left.get_ylim()[1])  # small differences look small
    left.legend(loc="lower right", fontsize="small")
    left.grid(alpha=0.3)
    labels = [group.places[0] + " ..." * (len(group.places) > 1) for group in groups]
    ratios = [chosen["ratios"][group.places[0]] for group in groups]
    bars = right.barh(labels, ratios, color=["tab:blue" if ratio < 1.0 else "lightgray" for ratio in ratios])
    right.bar_label(bars, [f"{ratio:g}" if ratio < 1.0 else "whole" for ratio in ratios], padding=3)
    right.invert_yaxis()
    right.set(xlabel="keep ratio: share of each place on the slow path", xlim=(0, 1.15))
    figure.savefig(path, dpi=100)
