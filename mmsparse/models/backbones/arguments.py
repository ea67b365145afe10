"""Arguments of a stock backbone, as its dynamic class was given them."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn


def bind(backbone: nn.Module, stock: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
    """By their names, or a sentence that says which there are."""
    signature = inspect.signature(stock.__init__)
    try:
        return signature.bind(backbone, *args, **kwargs)
    except TypeError as error:
        known = ", ".join(list(signature.parameters)[1:])
        raise TypeError(
            f"{type(backbone).__name__}: {error}. Besides its own, such as `sparsity`, it takes the arguments of "
            f"{stock.__name__}: {known}"
        ) from error
