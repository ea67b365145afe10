"""What every neck and head with routed convolutions has in common."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmsparse.mistakes import mistakes_in
from mmsparse.ops import OfThread, remembered, static
from mmsparse.registry import check_keys
from mmsparse.sparsity import Selection, router_keys

from .router import ConvRouter

TOWERS = ("cls_convs", "reg_convs")
_LEVELS: OfThread[Iterator[Selection | None] | None] = OfThread(None)  # to come in this call


class RoutedPart:
    """Mixin in front of a stock neck or head: its convolutions are dense only where it matters, 1x1 elsewhere.

    Parameters of the stock class keep their names, everything new lives under ``router``. The argument ``sparsity``
    holds those of :class:`ConvRouter`; None is the stock class.
    """

    prefix = "head"  # of the decisions' names in logs
    router: ConvRouter | None

    def __init__(self, *args: Any, sparsity: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.router = None
        if sparsity is not None and not isinstance(sparsity, Mapping):
            raise TypeError(
                f"{type(self).__name__}: expected argument `sparsity` to be a dict or None, but got {sparsity!r}"
            )
        if sparsity is not None:
            where = f"{type(self).__name__}: argument `sparsity`"
            check_keys(where, sparsity, router_keys(ConvRouter))
            with mistakes_in(where):
                self.router = ConvRouter(self, self.routed_convs, self.shared_by(), self.prefix, **sparsity)

    def routed_convs(self, levels: int) -> Sequence[str]:
        """Names of the convolutions that work on the so many finest levels."""
        raise NotImplementedError

    def shared_by(self) -> int | None:
        """How many levels each convolution is applied to; None if they have their own."""
        return None

    def forward(self, x: Sequence[Tensor]) -> Any:
        if self.router is None:
            return super().forward(x)
        with remembered():
            results = super().forward([_rows_together(m) for m in x])
        return results  # behind the block: dynamo cannot leave two of them at once


class RoutedNeck(RoutedPart):
    """The same for a neck."""

    prefix = "neck"

    def forward(self, x: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(m.contiguous() for m in super().forward(x))  # mmcv's RoIAlign reads memory as it lies


class RoutedTowers(RoutedPart):
    """The same for a head that is applied to every level of a pyramid: a decision a level, shared by all towers."""

    def forward(self, x: Sequence[Tensor]) -> Any:
        if self.router is None:
            return super().forward(x)
        x = [_rows_together(m) for m in x]
        with _LEVELS.set(iter(self.router.decide_levels(x))):
            results = super().forward(x)
        return results

    def forward_single(self, x: Tensor, *args: Any) -> Any:
        """The stock forward calls this for one level after the other."""
        levels = None if self.router is None else _LEVELS.value
        if levels is None:
            return super().forward_single(x, *args)
        with self.router.on_level(x, next(levels)):
            results = super().forward_single(x, *args)
        return tuple(part.whole() if isinstance(part, static.TileMap) else part for part in results)

    def routed_convs(self, levels: int) -> Sequence[str]:
        towers = [getattr(self, tower, ()) for tower in TOWERS]
        return [f"{name}.{i}.conv" for name, tower in zip(TOWERS, towers, strict=True) for i in range(len(tower))]

    def shared_by(self) -> int:
        return self.prior_generator.num_levels


def _rows_together(x: Tensor) -> Tensor:
    """A map whose locations have their channels side by side."""
    return x.contiguous(memory_format=torch.channels_last)
