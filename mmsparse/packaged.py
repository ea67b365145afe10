"""Files that an installed library brings: ``lib::path`` lies below its ``.mim/configs``."""

from importlib.util import find_spec
from pathlib import Path


def local_path(name: str) -> Path:
    """Where a file is meant to be that was given by its path, or as ``lib::path``."""
    library, _, inside = name.rpartition("::")
    package = find_spec(library) if library.isidentifier() else None
    if package and package.origin:
        return Path(package.origin).parent / ".mim" / "configs" / inside
    return Path(name).expanduser()
