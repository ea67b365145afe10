"""What stands for the classes that extend a library which is not installed."""

import importlib
from collections.abc import Sequence
from typing import Any

from mmsparse.env import has, require
from mmsparse.registry import MODELS


def stand_in(name: str, *libraries: str) -> type:
    """A registered class that says, when one is built, which libraries (one of them is enough) it lacks."""

    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            require(*libraries)
        except RuntimeError as error:
            raise RuntimeError(f"{name} extends a class of {' or '.join(libraries)}. {error}") from error

    return MODELS.register_module(name=name, module=type(name, (), {"__init__": refuse}))


def present_or_absent(package: str, **modules: tuple[str, Sequence[str]]) -> dict[str, type]:
    """The classes ``DynamicNAME`` of a package's modules, or what stands for them.

    Args:
        package: Its name.
        modules: The library that each module of it extends, and the names.
    """
    found = {}
    for module, (library, names) in modules.items():
        classes = [f"Dynamic{name}" for name in names]
        if has(library):
            there = importlib.import_module(f"{package}.{module}")
            found.update({name: getattr(there, name) for name in classes})
        else:
            found.update({name: stand_in(name, library) for name in classes})
    return found
