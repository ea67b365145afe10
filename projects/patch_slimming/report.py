"""What a search found: a table of kept tokens, and a picture of the masks."""

from collections.abc import Sequence
from pathlib import Path

from .masks import SlimMasks


def table(masks: SlimMasks, errors: Sequence[tuple[float, float] | None]) -> str:
    """One row a block, from the first to the last; errors are those of the search, where it searched."""
    lines = ["| block | kept tokens | share | error | after training |", "| --: | --: | --: | --: | --: |"]
    total = masks.kept.shape[1]
    for block, (count, error) in enumerate(zip(masks.counts, errors, strict=True)):
        shown = " | ".join(f"{value:.4f}" for value in error) if error else "- | -"
        lines.append(f"| {block} | {count} | {count / total:.2f} | {shown} |")
    return "\n".join(lines)


def draw(masks: SlimMasks, path: str | Path) -> None:
    """Write a picture: a panel a block."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(6, len(masks.kept))
    rows = -(-len(masks.kept) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.0 * rows + 0.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    total = masks.kept.shape[1]
    for block, axis in enumerate(axes):
        axis.axis("off")
        if block < len(masks.kept):
            axis.imshow(masks.kept[block].view(masks.grid), cmap="gray", vmin=0, vmax=1, extent=(0, 1, 0, 1))
            axis.plot((0, 1, 1, 0, 0), (0, 0, 1, 1, 0), color="tab:blue", linewidth=1)
            axis.set_title(f"block {block}: {masks.counts[block]} of {total}", fontsize=9)
    figure.suptitle("tokens that each block computes (white), the same in every picture", fontsize=10)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
