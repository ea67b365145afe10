"""A dense config in, its dynamic twin out."""

from .configs import sparsify

__all__ = ["sparsify"]
