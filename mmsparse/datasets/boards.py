"""Generated circuit boards with six kinds of defect: large pictures in which little matters.

Defects are a few pixels wide whatever the picture's size, covered copper has little contrast, and dust, scratches, via
holes and worn print look like defects and are none. How hard it is stands in ``board_style.py``.

``render_board`` is a pure function of its arguments: each picture can be made again alone, in any order, and without
its defects. (Other builds of numpy or OpenCV may round a few pixels differently.)
"""

import math
from dataclasses import dataclass

import numpy as np

from .board_defects import KINDS, Defect, add_defects
from .board_layout import draw_layout
from .board_photo import photograph
from .board_style import STYLES
from .pictures import picture_seed

CLASSES = KINDS
# Value v of a label map means SEG_CLASSES[v - 1].
SEG_CLASSES = ("background", *CLASSES)
# RGB for SEG_CLASSES; a detector's palette is PALETTE[1:].
PALETTE = (
    (120, 120, 120), (220, 20, 60), (0, 0, 200), (0, 130, 0), (190, 120, 0), (140, 0, 190), (0, 160, 170),
)  # fmt: skip
SIZES = (128, 4096)
DEFECTS = 6.5  # a picture, as in DeepPCB
PIXELS_PER_DEFECT = 96 * 96  # of the picture; with fewer no place would be found for some of them


@dataclass(frozen=True)
class Board:
    """A picture (S, S) or (S, S, 3) uint8 BGR, its label map (S, S) uint8, its conductors (S, S) bool, its defects."""

    image: np.ndarray
    labels: np.ndarray
    copper: np.ndarray
    defects: tuple[Defect, ...]


def check_board(size: int, defects: float, style: str) -> None:
    if not SIZES[0] <= size <= SIZES[1] or size % 32:
        raise ValueError(f"Expected 'size' to be a multiple of 32 from {SIZES[0]} to {SIZES[1]}, but got {size}")
    most = size * size // PIXELS_PER_DEFECT
    if not 0 <= defects <= most:
        side = math.sqrt(max(defects, 0) * PIXELS_PER_DEFECT)
        larger = f": a 'size' of {32 * math.ceil(side / 32)} holds them" if size < side <= SIZES[1] else ""
        raise ValueError(
            f"Expected 'defects' to be from 0 to {most} for pictures of {size} pixels, but got {defects}{larger}"
        )
    if style not in STYLES:
        raise ValueError(f"Expected 'style' to be one of {tuple(STYLES)}, but got {style!r}")


def render_board(
    seed: int,
    split: str,
    index: int,
    size: int,
    defects: float = DEFECTS,
    colour: bool = False,
    style: str = "plain",
) -> Board:
    """Make picture ``index`` of a split, with ``defects`` on average; the same arguments give the same bytes."""
    check_board(size, defects, style)
    # One source each, so that the number of defects moves nothing else.
    drawing, marring, lighting = (np.random.default_rng(s) for s in picture_seed(seed, split, index).spawn(3))
    layout = draw_layout(drawing, size, STYLES[style])
    copper, found = add_defects(marring, layout, int(marring.poisson(defects)))
    labels = np.ones((size, size), np.uint8)
    for defect in found:
        labels[defect.window][defect.mask] = defect.category + 2
    image = photograph(lighting, layout, copper, STYLES[style], colour)
    return Board(image, labels, copper > 127, found)
