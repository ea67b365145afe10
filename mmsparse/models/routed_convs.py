"""What every neck and head with routed convolutions has in common."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmsparse.mistakes import mistakes_in
from mmsparse.registry import check_keys
from mmsparse.sparsity import ConvRouter, router_keys


class RoutedConvs:
    """Mixin in front of a stock neck or head: its convolutions are dense only where it matters, 1x1 elsewhere.

    Parameters of the stock class keep their names, everything new lives under ``router``. The argument ``sparsity``
    holds those of :class:`mmsparse.sparsity.ConvRouter`; None is the stock class.
    """

    prefix: str  # of the decisions' names in logs
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
        x = [m.contiguous(memory_format=torch.channels_last) for m in x]  # a location's channels side by side
        if not self.router.shared:
            return super().forward(x)
        with self.router.decided(x):
            return super().forward(x)


class RoutedNeck(RoutedConvs):
    """The same for a neck."""

    prefix = "neck"

    def forward(self, x: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(m.contiguous() for m in super().forward(x))  # mmcv's RoIAlign reads memory as it lies


class RoutedTowers(RoutedConvs):
    """The same for a head that is applied to every level of a pyramid: a decision a level, shared by all towers."""

    prefix = "head"

    def routed_convs(self, levels: int) -> Sequence[str]:
        return [f"{tower}.{i}.conv" for tower in ("cls_convs", "reg_convs") for i in range(len(getattr(self, tower)))]

    def shared_by(self) -> int:
        return self.prior_generator.num_levels
