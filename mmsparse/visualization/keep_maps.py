"""Keep maps: how often each location of a picture took the slow path."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from mmsparse.sparsity import Selection

COLUMNS = 3  # of a legend


def slow_share(selections: Sequence[tuple[str, Selection]], size: tuple[int, int], index: int = 0) -> np.ndarray:
    """Share of the decisions that sent a location through the slow path, (H, W) in [0, 1].

    Args:
        selections: What ``record_selections`` collected during one forward.
        size: Height and width of the picture as the network saw it.
        index: Number of the picture in the batch.
    """
    found = [selection for _, selection in selections if not selection.geometry.of_regions]
    if not found:
        return np.ones(size, dtype=np.float32)
    maps = [selection.on_picture(size, index).float() for selection in found]
    return torch.stack(maps).mean(dim=0).cpu().numpy()


def draw_where(
    path: str | Path,
    image: np.ndarray,
    share: np.ndarray,
    result: np.ndarray,
    captions: Sequence[str],
    legend: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Write input, keep map and result side by side.

    Args:
        path: The PNG to write.
        image: (H, W, 3) RGB uint8.
        share: (H, W) from ``slow_share``.
        result: (h, w, 3) RGB uint8, the picture with predictions drawn by the library's visualizer.
        captions: One for each of the three panels.
        legend: What the colours of the result mean: a name -> (red, green, blue) of 0 to 255.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = -(-len(legend or ()) // COLUMNS)
    figure = Figure(figsize=(13, 4.6 + 0.25 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    axes[0].imshow(image)
    axes[1].imshow(image.mean(axis=2), cmap="gray")
    heat = axes[1].imshow(share, cmap="inferno", vmin=0, vmax=1, alpha=0.65)
    axes[2].imshow(result)
    for axis, caption in zip(axes, captions, strict=True):
        axis.set_title(caption, fontsize=10)
        axis.axis("off")
    if legend:
        patches = [Patch(color=np.divide(colour, 255), label=name) for name, colour in legend.items()]
        place = dict(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=COLUMNS)
        axes[2].legend(handles=patches, fontsize=8, frameon=False, **place)
    bar = figure.colorbar(heat, ax=axes[1], fraction=0.046, pad=0.02)
    bar.set_label("share of decisions for the slow path", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
