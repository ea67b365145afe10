"""Pictures of where a network looked. No numbers of their own."""

from .keep_maps import draw_where, slow_share
from .panels import draw_predictions

__all__ = ["draw_predictions", "draw_where", "slow_share"]
