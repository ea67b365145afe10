"""A dense config in, its dynamic twin out."""

from .configs import parts_that_fit, sparsify

__all__ = ["parts_that_fit", "sparsify"]
