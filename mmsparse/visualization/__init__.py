"""Pictures of where a network looked and of what it cost. No numbers of their own."""

from .keep_maps import draw_where, slow_share

__all__ = ["draw_where", "slow_share"]
