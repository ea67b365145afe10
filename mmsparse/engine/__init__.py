"""What looks at models from outside while they train."""

from .sparsity_hook import SparsityHook

__all__ = ["SparsityHook"]
