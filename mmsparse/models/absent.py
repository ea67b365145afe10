"""What stands for the classes that extend a library which is not installed."""

from typing import Any

from mmsparse.env import require
from mmsparse.registry import MODELS


def stand_in(name: str, *libraries: str) -> type:
    """A registered class that says, when one is built, which libraries (one of them is enough) it lacks."""

    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            require(*libraries)
        except RuntimeError as error:
            raise RuntimeError(f"{name} extends a class of {' or '.join(libraries)}. {error}") from error

    return MODELS.register_module(name=name, module=type(name, (), {"__init__": refuse}))
