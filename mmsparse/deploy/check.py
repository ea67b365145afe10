"""What cannot be exported says so, in a sentence with the way out."""

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class HasObjection(Protocol):
    """A module that cannot always be exported."""

    def export_objection(self, padded: bool) -> str | None:
        """Why not, and what to do; None if it can."""


def check_exportable(model: nn.Module, padded: bool = False) -> None:
    """Refuse a model with a part whose shapes depend on data.

    Args:
        model: A network or a part of one.
        padded: Whether the real sizes of padded pictures are an input.
    """
    for name, module in model.named_modules():
        objection = module.export_objection(padded) if isinstance(module, HasObjection) else None
        if objection is not None:
            raise ValueError(f"{name or type(model).__name__} cannot be exported: {objection}")
