"""Checkpoints of other releases in the layout that our networks share with the stock ones. Pure functions."""

from .dense import Converted, convert_dense
from .dynamicvit import convert_dynamicvit
from .fit import Fit, check_fit
from .outward import RELEASES, Released, convert_outward

__all__ = [
    "RELEASES",
    "Converted",
    "Fit",
    "Released",
    "check_fit",
    "convert_dense",
    "convert_dynamicvit",
    "convert_outward",
]
