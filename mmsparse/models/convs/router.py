"""Decisions of a neck or head, and the replacement of its convolutions by ones that ask where to be evaluated.

The module keeps its class, its forward and its parameter names.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mmcv.cnn import ConvWS2d
from mmengine.model import ModuleDict
from torch import Tensor, nn

from mmsparse.ops import OfThread, once_for
from mmsparse.sparsity import (
    Decider,
    Geometry,
    LocalGlobalScorer,
    PeakScorer,
    Router,
    Selection,
)

from .layer import ConvFastPath, RoutedConv2d


class ConvRouter(Router):
    """Decisions and fast paths of the convolutions of a neck or head.

    Args:
        module: The neck or head; its convolutions are replaced in place.
        convs: Names of those that work on the so many finest levels of the pyramid.
        decided_with: The name of the decision of each; the first convolution of a name decides, from what it reads.
        shared_by: Number of levels that all convolutions are applied to: each level decides once for all of them
            (see ``decide_levels``). None: each is applied to one map, as ``decided_with`` says.
        prefix: What the names of the decisions in logs begin with.
        of_regions: Whether maps are of regions, not of pictures.
        keep_ratio: One number, or one for each decision.
        levels: How many levels of the pyramid are routed, from the finest. The coarser ones are too small to pay for
            a scorer (three hold 98 % of the locations) and stay dense.
        tile: Locations along a side of the tiles that are chosen.
        coarse: Whether the fast path sees the mean of a tile, once for all of its locations: of 4x4 tiles a sixteenth
            of its arithmetic.
        scorer: Config of the scorers: PeakScorer unless given, which looks further where the choice serves a tower. All
            others see a tile as one token, the mean of its locations.
        selector: Config of the selectors.
        explore: Fraction of unselected tiles whose slow value informs the scorer in training.
        detach: Whether scorers read detached features.
        learn: What teaches the scores, see :class:`Router`.
    """

    def __init__(
        self,
        module: nn.Module,
        convs: Callable[[int], Sequence[str]],
        decided_with: Callable[[str], str],
        shared_by: int | None,
        prefix: str,
        of_regions: bool = False,
        *,
        keep_ratio: float | Sequence[float] = 0.5,
        levels: int = 3,
        tile: int = 4,
        coarse: bool = False,
        scorer: dict[str, Any] | None = None,
        selector: dict[str, Any] | None = None,
        explore: float = 1.0,
        detach: bool = True,
        learn: str | None = None,
    ) -> None:
        super().__init__(explore, detach, learn)
        for name, number in dict(levels=levels, tile=tile).items():
            if type(number) is not int or number < 1:
                raise ValueError(f"Expected argument `{name}` to be a positive whole number, but got {number!r}")
        if type(coarse) is not bool:
            raise ValueError(f"Expected argument `coarse` to be True or False, but got {coarse!r}")
        self.tile = tile
        self.coarse = coarse
        self.of_regions = of_regions
        self.shared = shared_by is not None
        self._default_scorer = scorer is None
        self.fast_paths = ModuleDict()
        stock = {name: _routable(module, name) for name in convs(levels)}
        if not stock:
            raise ValueError(
                "it has no convolution that can be routed, like a head with stacked_convs=0. Use the stock class, or "
                "remove `sparsity`"
            )
        if self.shared:
            width = next(iter(stock.values())).in_channels
            names, self._decision = {f"level{level}": width for level in range(min(levels, shared_by))}, {}
        else:
            self._decision = {name: decided_with(name) for name in stock}  # of each convolution
            names = {}
            for name, decision in self._decision.items():
                names.setdefault(decision, stock[name].in_channels)  # the first one decides
        self._serves = Counter(self._decision.values())
        for name, channels in names.items():
            several = self.shared or self._serves[name] > 1
            decider = self.add(*(_key(name), f"{prefix}.{name}", channels, scorer, selector, "a convolution", several))
            decider.of_regions = of_regions
        for name, conv in stock.items():
            self.fast_paths[_key(name)] = ConvFastPath(conv.in_channels, conv.out_channels)
            _replace(module, name, RoutedConv2d(conv, name, self))
        self.set_keep_ratio(keep_ratio)

    def adopt(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """The default scorers of version 0.1 saw the mean of a tile."""
        for key, decider in self.decisions.items() if self._default_scorer else ():
            first = state.get(f"{prefix}decisions.{key}.scorer.embed.1.weight")
            if first is not None and isinstance(decider.scorer, PeakScorer):
                new, index = next(decider.scorer.parameters()), decider.scorer.index
                decider.scorer = LocalGlobalScorer(first.shape[1], hidden=first.shape[0]).to(new)
                decider.scorer.index = index

    def fast_path(self, name: str) -> ConvFastPath:
        return self.fast_paths[_key(name)]

    def selection_for(self, name: str, x: Tensor) -> Selection | None:
        """Where a convolution is evaluated densely; None means everywhere."""
        if not self.shared:
            decision = self._decision[name]
            decider = self.decisions[_key(decision)]
            if self._serves[decision] == 1:
                return self._decide(decider, x)
            # not the decider's: torch.export has another object for a module each time, if one stands at two places
            return once_for(self, (decision, *_size(x)), lambda: self._decide(decider, x))
        level = _LEVEL.value
        if level is None or level[0] is not self or level[1] != _size(x):
            raise RuntimeError(
                f"The convolution {name} was called outside of its module's forward, or on a map of another size "
                f"{_size(x)} than the level that was decided"
            )
        return level[2]

    def decide_levels(self, maps: Sequence[Tensor]) -> list[Selection | None]:
        """One decision for each level of a pyramid, for all convolutions that are applied to it."""
        taken = [self._decide(decider, x) for decider, x in zip(self.decisions.values(), maps, strict=False)]
        return taken + [None] * (len(maps) - len(taken))

    @contextmanager
    def on_level(self, x: Tensor, selection: Selection | None) -> Iterator[None]:
        """Inside a with-block, convolutions are applied to one level, where it was decided so."""
        with _LEVEL.set((self, _size(x), selection)):
            yield

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Inside a with-block, convolutions are applied to the level that was gone to last."""
        with _LEVEL.set(None):
            yield

    def go_to(self, x: Tensor, selection: Selection | None) -> None:
        _LEVEL.value = (self, _size(x), selection)

    def _decide(self, decider: Decider, x: Tensor) -> Selection | None:
        if (not self.training and decider.keep_ratio >= 1.0) or not len(x):
            return None
        geometry = Geometry(_size(x), self.tile, of_regions=self.of_regions)
        return decider(x, geometry)


_LEVEL: OfThread[tuple[ConvRouter, tuple[int, int], Selection | None] | None] = OfThread(None)


def _size(x: Tensor) -> tuple[int, int]:
    """Height and width as plain numbers, while tracing too."""
    return int(x.shape[-2]), int(x.shape[-1])


def _routable(module: nn.Module, name: str) -> nn.Conv2d:
    try:
        conv = module.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f"`routed_convs` of {type(module).__name__} names {name!r}, which it lacks") from error
    what = objection_to(conv)
    if what is None:
        return conv
    raise ValueError(
        f"its layer {name} {what}, but only plain square convolutions of odd size, stride 1 "
        "and one group can be routed. Use the stock class, or remove `sparsity`"
    )


def objection_to(conv: nn.Module) -> str | None:
    """What speaks against routing a layer."""
    what = None
    if type(conv) not in (nn.Conv2d, ConvWS2d):
        what = f"is a {type(conv).__name__}"
    elif conv.stride != (1, 1):
        what = f"has stride {conv.stride}"
    elif conv.groups != 1:
        what = f"has {conv.groups} groups"
    elif conv.kernel_size[0] != conv.kernel_size[1] or conv.kernel_size[0] % 2 == 0 or conv.kernel_size == (1, 1):
        what = f"has a kernel of {conv.kernel_size}"
    elif conv.dilation[0] != conv.dilation[1] or conv.padding_mode != "zeros":
        what = f"has dilation {conv.dilation} and padding mode {conv.padding_mode!r}"
    elif conv.padding != (conv.dilation[0] * (conv.kernel_size[0] // 2),) * 2:
        what = f"has padding {conv.padding}, which changes the size of its map"
    return what


def _replace(module: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, new)


def _key(name: str) -> str:
    return name.replace(".", "_")
