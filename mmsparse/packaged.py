"""Files that an installed library brings: ``lib::path`` lies below its ``.mim/configs``."""

import difflib
from importlib.util import find_spec
from pathlib import Path

HOME = "mmsparse::published"  # of configs with weights
HASH = "-????????.pth"  # how the name of published weights ends


def config_path(name: str) -> Path:
    """Where a config is meant to be that was given by its path, or as ``lib::path``, with or without ``.py``."""
    path = _local(name)
    return path if path.suffix else path.with_name(f"{path.name}.py")


def weights_path(name: str) -> Path:
    """The same of a checkpoint; ``lib::path`` without a suffix means those published beside the config of that name."""
    path = _local(name)
    beside = sorted(path.parent.glob(path.name + HASH)) if "::" in name and not path.suffix else []
    return beside[0] if len(beside) == 1 else path


def published(name: str) -> tuple[str, str]:
    """Config and weights of a network that came with this package, as files.

    As OpenMMLab's own functions take them: ``DetInferencer(*mmsparse.published(name))``.
    """
    names = sorted(path.name[: -len(HASH)] for path in _local(HOME).glob(f"*{HASH}"))
    if name not in names:
        (nearest,) = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
        raise ValueError(f"Argument `name`: no weights of {name!r} are published; the nearest is {nearest!r}")
    return str(config_path(f"{HOME}/{name}")), str(weights_path(f"{HOME}/{name}"))


def _local(name: str) -> Path:
    library, _, inside = name.rpartition("::")
    package = find_spec(library) if library.isidentifier() else None
    if package and package.origin:
        return Path(package.origin).parent / ".mim" / "configs" / inside
    return Path(name).expanduser()
