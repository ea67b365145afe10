"""What mmengine needs to be told before configs are read and checkpoints are loaded."""

import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from .data_configs import SUFFIXES, read_data_config
from .packaged import config_path
from .trust import guard_loaders

ONEDL_NAMES = {
    "mmdet": "onedl-mmdetection",
    "mmseg": "onedl-mmsegmentation",
    "mmpretrain": "onedl-mmpretrain",
}


def prepare() -> None:
    """Make ``lib::config`` paths and mmengine's own checkpoints work on either stack, and no checkpoint run code.

    Safe to call twice.
    """
    tempfile.gettempdir()  # raises if there is none; mmengine, which reads a copy of each config, would not say so
    MODULE2PACKAGE["mmsparse"] = "mmsparse"
    for module, name in ONEDL_NAMES.items():
        if _installed(name):
            MODULE2PACKAGE[module] = name
    _find_projects()
    guard_loaders()


def load_config(path: str) -> Config:
    """A config file, or a config that an installed library brings (``lib::path``), as it stands.

    mmengine finds the second kind, too, but not in folders such as ``gn+ws`` and ``legacy_1.x``.
    """
    if "::" not in path:
        return read_data_config(path) if path.endswith(SUFFIXES) else Config.fromfile(path)
    library, _, inside = path.partition("::")
    if find_spec(library) is None:
        raise FileNotFoundError(f"the package {library!r} is not installed")
    if (file := config_path(path)).is_file():
        return Config.fromfile(file)
    if "/" in inside or inside.endswith(".py"):
        raise FileNotFoundError(f"{library} brings no such file: {str(file)!r}")
    return Config.fromstring(f"_base_ = {path!r}", ".py")  # by its name in a metafile, or an error


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _find_projects() -> None:
    """The configs of a checkout's projects import their code as ``projects.NAME``, wherever a tool is called from."""
    checkout = Path(__file__).parents[1]
    if (checkout / "projects").is_dir() and str(checkout) not in sys.path:
        sys.path.append(str(checkout))
