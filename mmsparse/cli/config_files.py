"""Config files that commands read as they stand, and write."""

from pathlib import Path

from mmengine.config import Config

from mmsparse import compat
from mmsparse.cli.launch import check_writable
from mmsparse.data_configs import SUFFIXES


def read(path: str) -> Config:
    """As it stands: nothing is fitted to this machine."""
    if "::" not in path and not Path(path).is_file():
        raise FileNotFoundError(f"Expected argument `IN` to be a config file or lib::path, but got {path!r}")
    try:
        return compat.load_config(path)
    except Exception as error:  # a config is a program, and mmengine has no error of its own for an unknown name
        kind = "a config that is installed" if "::" in path else "a config file"
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"Expected argument `IN` to be {kind}, but got {path!r} ({reason})") from error


def writable(path: str, overwrite: bool) -> Path:
    suffixes = (".py", *SUFFIXES)
    if not path.endswith(suffixes):
        raise ValueError(f"Expected argument `OUT` to be a file of one of {suffixes}, but got {path!r}")
    if Path(path).exists() and not overwrite:
        raise FileExistsError(f"{path} is there already. Name another file, or add --overwrite")
    check_writable(Path(path).parent, "OUT")
    return Path(path)
