"""Which rows of a whole are kept, which are the rest, and how a concatenation of both becomes the whole again."""

from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """The two parts of a whole, as row numbers.

    Args:
        keep: Numbers of the kept rows, ascending.
        rest: Of all others.
        inverse: For each row of the whole, which row of ``torch.cat([kept, rest])`` it is.
    """

    keep: Tensor
    rest: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, keep_mask: Tensor) -> "Rows":
        """From a mask of any shape, True where a row is kept."""
        mask = keep_mask.flatten()
        keep = mask.nonzero().squeeze(1)
        return cls(keep, (~mask).nonzero().squeeze(1), inverse_of(mask, len(keep)))


def inverse_of(mask: Tensor, num_keep: int) -> Tensor:
    """``Rows.inverse`` of a flat mask with so many True entries, by counting."""
    before = mask.long().cumsum(0)  # kept ones up to here, this one included; some runtimes would count in bytes
    number = torch.arange(mask.shape[0], device=mask.device)
    return torch.where(mask, before - 1, num_keep + number - before)


def put_together(kept: Tensor, rest: Tensor, inverse: Tensor) -> Tensor:
    """The whole, of the rows of both parts."""
    return torch.cat([kept, rest]).index_select(0, inverse)
