"""What mmengine needs to be told before configs are read and checkpoints are loaded."""

from importlib.metadata import PackageNotFoundError, distribution

import torch
from mmengine.config.utils import MODULE2PACKAGE

ONEDL_NAMES = {
    "mmdet": "onedl-mmdetection",
    "mmseg": "onedl-mmsegmentation",
    "mmpretrain": "onedl-mmpretrain",
}


def prepare() -> None:
    """Make ``lib::config`` paths and mmengine's own checkpoints work on either stack. Safe to call twice."""
    MODULE2PACKAGE["mmsparse"] = "mmsparse"
    for module, name in ONEDL_NAMES.items():
        if _installed(name):
            MODULE2PACKAGE[module] = name
    _allow_mmengine_checkpoints()


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _allow_mmengine_checkpoints() -> None:
    """mmengine 0.10.7 loads with torch's default, which refuses the loggers and numpy scalars in its checkpoints."""
    import numpy as np
    from mmengine.logging.history_buffer import HistoryBuffer

    kinds = {type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.uint32)}
    core = np._core.multiarray
    torch.serialization.add_safe_globals([HistoryBuffer, np.ndarray, np.dtype, core._reconstruct, core.scalar, *kinds])
