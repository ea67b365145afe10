"""What every neck and head with routed convolutions has in common."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmsparse.mistakes import mistakes_in
from mmsparse.ops import OfThread, remembered, static
from mmsparse.registry import MODELS, check_keys
from mmsparse.sparsity import Selection, router_keys

from .router import ConvRouter, objection_to

TOWERS = ("cls_convs", "reg_convs")
_LEVELS: OfThread[Iterator[Selection | None] | None] = OfThread(None)  # to come in this call


class RoutedPart:
    """Mixin in front of a stock neck or head: its convolutions are dense only where it matters, 1x1 elsewhere.

    Parameters of the stock class keep their names, everything new lives under ``router``. The argument ``sparsity``
    holds those of :class:`ConvRouter`; None is the stock class.
    """

    prefix = "head"  # of the decisions' names in logs
    of_regions = False  # what it is given
    memory_format = torch.channels_last  # of what it is given: locations with their channels side by side
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
                self.router = ConvRouter(
                    *(self, self.routed_convs, self.decided_with, self.shared_by(), self.prefix, self.of_regions),
                    **sparsity,
                )

    def routed_convs(self, levels: int) -> Sequence[str]:
        """Names of the convolutions that work on the so many finest levels; all that can be routed, unless it is known
        which levels they work on.
        """
        return routable(self)

    def decided_with(self, name: str) -> str:
        """The name of the decision that a convolution is evaluated by, the first of them in a forward takes it; its own
        unless others that work on the same map are of the same name.
        """
        return name

    def shared_by(self) -> int | None:
        """How many levels each convolution is applied to; None if they have their own."""
        return None

    def forward(self, x: Tensor | Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
        if self.router is None:
            return super().forward(x, *args, **kwargs)
        with remembered():
            results = super().forward(self.laid(x), *args, **kwargs)
        return results  # behind the block: dynamo cannot leave two of them at once

    def laid(self, x: Any) -> Any:
        """A map in the part's memory format, or several: each when it is asked for, unless gradients keep them all."""
        if isinstance(x, Tensor):
            return x.contiguous(memory_format=self.memory_format)
        return [self.laid(m) for m in x] if torch.is_grad_enabled() else _Laid(x, self.laid)


class _Laid(Sequence):
    """Maps, each laid anew whenever it is asked for: copies of all of them would be there at once, beside them."""

    def __init__(self, maps: Sequence[Any], lay: Callable[[Any], Any]) -> None:
        self.maps, self.lay = maps, lay

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, i: int | slice) -> Any:
        return self.lay(self.maps[i])


class RoutedNeck(RoutedPart):
    """The same for a neck."""

    prefix = "neck"

    def forward(self, x: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(m.contiguous() for m in super().forward(x))  # mmcv's RoIAlign reads memory as it lies


class RoutedHead(RoutedPart):
    """The same for a decode head."""

    prefix = "decode_head"


class RoutedConvs(RoutedPart):
    """The same for a backbone of convolutions; those of a run of blocks share a decision."""

    prefix = "backbone"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.router is not None and any(getattr(module, "with_cp", False) for module in self.modules()):
            raise ValueError(
                f"{type(self).__name__}: argument `with_cp`=True: what is computed again would be decided again. Leave "
                "it out, or remove `sparsity`"
            )

    def train(self, mode: bool = True) -> "RoutedConvs":
        super().train(mode)
        return self  # some stock classes return nothing

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = super().forward(x)
        return tuple(m.contiguous() for m in maps)  # mmcv's operators read maps as they lie


class RoutedPyramidHead(RoutedPart):
    """The same for a head on the levels of a pyramid."""

    def laid(self, x: Any) -> Any:
        """Levels as they come: operators lay what they read, and let go of it, unless gradients keep it."""
        return super().laid(x) if torch.is_grad_enabled() else x


class RoutedTowers(RoutedPyramidHead):
    """The same for a head that is applied to every level of a pyramid: a decision a level, shared by all towers."""

    def forward(self, x: Sequence[Tensor]) -> Any:
        if self.router is None:
            return super().forward(x)
        x = self.laid(x)
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
        return routable(self, *(f"{tower}." for tower in TOWERS))

    def shared_by(self) -> int:
        priors = self.prior_generator if hasattr(self, "prior_generator") else self.approx_anchor_generator
        return priors.num_levels


class RoutedLoop(RoutedTowers):
    """The same for a head whose forward goes through the levels itself, from one to the next."""

    def forward(self, x: Sequence[Tensor]) -> Any:
        if self.router is None:
            return super().forward(x)
        with remembered(), self.router.in_turn():
            results = super(RoutedPart, self).forward(self.levels_of(self.laid(x)))
        return results

    def levels_of(self, maps: Sequence[Tensor]) -> Sequence[Tensor]:
        """Maps of which the last one that was asked for is worked on, as is decided here."""
        return InTurn(self.router, maps, self.router.decide_levels(maps))

    def export_objection(self, padded: bool) -> str:
        return "its forward goes through the levels of a pyramid itself, which is not exported. Use it in PyTorch"


class InTurn(Sequence):
    """Levels of a pyramid: to ask for one is to work on it."""

    def __init__(self, router: ConvRouter, maps: Sequence[Tensor], selections: Sequence[Selection | None]) -> None:
        self.router, self.maps, self.selections = router, maps, selections

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, i: int) -> Tensor:
        x = self.maps[i]
        self.router.go_to(x, self.selections[i])
        return x


class RoutedLevels(RoutedPyramidHead):
    """The same for a head with towers of their own for each level: those of a level share a decision."""

    towers: Sequence[str] = TOWERS

    def routed_convs(self, levels: int) -> Sequence[str]:
        count = min(levels, self.prior_generator.num_levels)
        return routable(self, *(f"{tower}.{level}." for level in range(count) for tower in self.towers))

    def decided_with(self, name: str) -> str:
        return f"level{name.split('.')[1]}"


def routed(mixin: type[RoutedPart], stock: type, what: str, module: str) -> type:
    """The registered class ``DynamicNAME`` of a stock one, for a module; ``what`` of it is routed."""
    doc = f"{stock.__name__} whose {what} are routed."
    return MODELS.register_module(
        module=type(f"Dynamic{stock.__name__}", (mixin, stock), dict(__doc__=doc, __module__=module))
    )


def routable(module: nn.Module, *places: str) -> list[str]:
    """Names of the convolutions of a module that can be routed, of those whose name begins so if that is given.

    One that stands at several places is named at each.
    """
    convs = module.named_modules(remove_duplicate=False)
    larger = [(name, conv) for name, conv in convs if isinstance(conv, nn.Conv2d) and max(conv.kernel_size) > 1]
    named = [(name, conv) for name, conv in larger if not places or name.startswith(places)]
    return [name for name, conv in named if objection_to(conv) is None]
