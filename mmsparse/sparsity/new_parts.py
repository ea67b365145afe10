"""What a dense network lacks, and how it is told from the rest."""

from torch import nn


class NewPart:
    """A module that its dense network lacks: what lies under its name is new, and nothing else is.

    A base class beside that of the module. New parameters learn at a rate of their own and never rest as pretrained
    ones may; a dense checkpoint may lack them.
    """


def new_prefixes(model: nn.Module) -> tuple[str, ...]:
    """What the names of a model's new parameters and buffers begin with."""
    named = model.named_modules(remove_duplicate=False)
    return tuple(f"{name}." if name else "" for name, module in named if isinstance(module, NewPart))
