"""What looks at models from outside while they train."""

from .seed_hook import SeedHook
from .sparsity_hook import SparsityHook

__all__ = ["SeedHook", "SparsityHook"]
