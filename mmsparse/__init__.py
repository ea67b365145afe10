"""Dynamic spatial sparsification for OpenMMLab.

Importing this package is cheap and never fails for lack of an OpenMMLab package: mmengine swallows
ImportErrors raised while it looks for ``mmsparse.registry``, and the user would only read "not in the registry".
"""

from importlib import import_module
from typing import Any

from . import mmcv_ops
from .version import __version__

__all__ = ["__version__", "budget", "ignore_padding", "pop_aux", "set_keep_ratio", "sparsify", "trust_checkpoints"]

mmcv_ops.serve()


def __getattr__(name: str) -> Any:
    if name in ("budget", "ignore_padding", "pop_aux", "set_keep_ratio"):
        return getattr(import_module("mmsparse.apis"), name)
    if name == "sparsify":
        return import_module("mmsparse.stock_configs").sparsify
    if name == "trust_checkpoints":
        return import_module("mmsparse.trust").trust_checkpoints
    raise AttributeError(f"module 'mmsparse' has no attribute '{name}'")
