"""A picture in the light of where its network worked: for people who have not read how."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

DARK = 0.25  # what is left of the light where everything took the cheap path
AROUND = 12  # pixels between a thing and its frame
FRAME = "#7CFC00"
LOST = "#FF5050"


class Shown(NamedTuple):
    """What is said of a network, and what it found."""

    title: str
    boxes: np.ndarray  # (N, 4): x1, y1, x2, y2
    names: Sequence[str]  # of the boxes
    missed: np.ndarray  # (M, 4): what it did not find


def draw_spotlight(
    path: str | Path, image: np.ndarray, places: Iterable[np.ndarray], dense: Shown, routed: Shown
) -> None:
    """Write two panels: a dense network's, all in light, and a routed one's, in light where it took the slow path.

    Args:
        path: The PNG to write.
        image: (H, W, 3) RGB; its contrast is raised.
        places: Of every place of the routed network, the share (H, W) of its decisions for the slow path.
        dense: Of the left panel.
        routed: Of the right one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    low, high = np.percentile(image, (1, 99))
    image = np.clip((image - low) / max(high - low, 1.0), 0.0, 1.0)
    share = np.mean(list(places), axis=0)
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, shown, slow in zip(figure.subplots(1, 2), (dense, routed), (np.ones_like(share), share), strict=True):
        axis.imshow(image * (DARK + (1.0 - DARK) * slow[..., None]))
        for boxes, names, colour, line in (
            (shown.boxes, shown.names, FRAME, "solid"),
            (shown.missed, ["missed"] * len(shown.missed), LOST, "dashed"),
        ):
            for (x1, y1, x2, y2), name in zip(boxes, names, strict=True):
                corner, size = (x1 - AROUND, y1 - AROUND), (x2 - x1 + 2 * AROUND, y2 - y1 + 2 * AROUND)
                axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=2, linestyle=line))
                axis.text(x1 - AROUND, y1 - AROUND - 6, name, color=colour, fontsize=9)
        axis.set_title(shown.title, fontsize=14)
        axis.axis("off")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
