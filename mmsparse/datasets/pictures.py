"""What all generated pictures have in common: their numbering and what is written of one."""

from typing import Any, NamedTuple

import numpy as np

SPLITS = ("train", "val")


class Picture(NamedTuple):
    """A picture (S, S) or (S, S, 3) uint8 BGR, its label map (S, S) uint8, its COCO annotations without ids."""

    image: np.ndarray
    labels: np.ndarray
    record: list[dict[str, Any]]


def picture_seed(seed: int, split: str, index: int) -> np.random.SeedSequence:
    """Where the randomness of picture ``index`` of a split comes from, and that of no other."""
    if split not in SPLITS:
        raise ValueError(f"Expected 'split' to be one of {SPLITS}, but got {split!r}")
    for name, value in (("seed", seed), ("index", index)):
        if value < 0:
            raise ValueError(f"Expected '{name}' to be at least 0, but got {value}")
    return np.random.SeedSequence([seed, SPLITS.index(split), index])
