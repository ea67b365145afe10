"""Generated circuit boards as a data set: what the writer must know of them."""

from dataclasses import dataclass
from typing import ClassVar

from .boards import CLASSES, DEFECTS, check_board, render_board
from .pictures import Picture
from .writer import DatasetArgs, outlines


@dataclass(frozen=True)
class BoardsArgs(DatasetArgs):
    """What determines the bytes of a generated data set of boards."""

    name: ClassVar[str] = "boards"
    format_version: ClassVar[int] = 1
    categories: ClassVar[dict[str, str]] = dict.fromkeys(CLASSES, "defect")

    defects: float = DEFECTS
    colour: bool = False
    style: str = "plain"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_board(self.size, self.defects, self.style)

    def render(self, split: str, index: int) -> Picture:
        board = render_board(self.seed, split, index, self.size, self.defects, self.colour, self.style)
        record = [
            {
                "category_id": defect.category + 1,
                "bbox": list(defect.bbox),
                "area": int(defect.mask.sum()),
                "iscrowd": 0,
                "segmentation": outlines(defect.mask, defect.bbox[:2]),
            }
            for defect in board.defects
        ]
        return Picture(board.image, board.labels, record)
