"""What a dense network lacks, and how it is told from the rest."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class NewPart:
    """A module that its dense network lacks: what lies under its name is new, and nothing else is.

    A base class beside that of the module. New parameters learn at a rate of their own and never rest as pretrained
    ones may; a dense checkpoint may lack them.
    """

    def adopt(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Become what older weights are of, where a default has changed since; names in them begin with the prefix."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.adopt(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def adopt(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Let all new parts of a model become what older weights are of."""
    for name, part in list(model.named_modules()):
        if isinstance(part, NewPart):
            part.adopt(state, f"{name}." if name else "")


def new_prefixes(model: nn.Module) -> tuple[str, ...]:
    """What the names of a model's new parameters and buffers begin with."""
    named = model.named_modules(remove_duplicate=False)
    return tuple(f"{name}." if name else "" for name, module in named if isinstance(module, NewPart))
