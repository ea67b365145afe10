"""Dynamic spatial sparsification for OpenMMLab.

Importing this package is cheap and never fails for lack of an OpenMMLab package: mmengine swallows
ImportErrors raised while it looks for ``mmsparse.registry``, and the user would only read "not in the registry".
"""

from importlib import import_module
from typing import Any

from . import mmcv_ops
from .version import __version__

HOMES = {
    "budget": "mmsparse.apis",
    "ignore_padding": "mmsparse.calls",
    "pop_aux": "mmsparse.apis",
    "published": "mmsparse.packaged",
    "set_keep_ratio": "mmsparse.apis",
    "sparsify": "mmsparse.rewriting",
    "trust_checkpoints": "mmsparse.trust",
}
__all__ = ["__version__", *HOMES]

mmcv_ops.serve()


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(HOMES[name]), name)
    raise AttributeError(f"module 'mmsparse' has no attribute '{name}'")
