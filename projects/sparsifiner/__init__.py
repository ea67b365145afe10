from .connectivity_hook import ConnectivityHook
from .sparsifiner_vit import SparsifinerViT

__all__ = ["ConnectivityHook", "SparsifinerViT"]
