"""What the routed backbones have in common, and what a family has to say of itself."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch.utils.checkpoint as cp
from torch import Tensor, nn

from mmsparse.mistakes import mistakes_in
from mmsparse.registry import check_keys
from mmsparse.sparsity import Geometry, Paths, Selection, router_keys

from .arguments import bind
from .block_router import BlockRouter
from .places import Place

Size = tuple[int, int]


class RoutedBackbone:
    """Mixin in front of a stock backbone: its blocks send through their slow path what was selected before them.

    Dense parameters keep the names of the stock class; everything new lives under ``router``. The returned maps are
    whole, so any neck or head works on them unchanged. The argument ``sparsity`` holds those of :class:`BlockRouter`;
    an empty dict is the default setting, None the dense network.

    A family says in ``routed_stages`` what there is to route, writes the arithmetic of one block in ``routed_block``,
    and calls ``run_stage`` where its stock class runs a stage's blocks. What else it may say has defaults: the class
    attributes, ``default_places``, ``attention_of``, ``dense_block`` and ``check_arguments``. Decisions, budgets, fast
    paths, frozen stages, the checks of ``sparsity``, losses, keep maps and counts of arithmetic come with this class.

    Attributes:
        plain: There is no hierarchy: places are block numbers, and successive ones keep r, r^2, r^3.
        tile: Locations along a side of what is chosen.
        fast_path: Type of the fast paths unless ``sparsity`` says otherwise.
        own_keys: What of ``sparsity`` the family reads itself.
    """

    plain = False
    tile = 1
    fast_path = "LinearFastPath"
    own_keys: Sequence[str] = ()
    router: BlockRouter | None

    def __init__(self, *args: Any, sparsity: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        bound = bind(self, self.stock(), args, kwargs)
        self.check_arguments(bound.arguments)
        indices = bound.arguments.get("out_indices")
        if isinstance(indices, Sequence):
            bound.arguments["out_indices"] = list(indices)  # some stock classes resolve negative ones in place
        super().__init__(*bound.args[1:], **bound.kwargs)
        self.router = None if sparsity is None else self._build_router(sparsity)
        self._freeze_stages()

    @classmethod
    def stock(cls) -> type[nn.Module]:
        """The class that is routed."""
        return cls.__mro__[cls.__mro__.index(RoutedBackbone) + 1]

    def check_arguments(self, arguments: dict[str, Any]) -> None:
        """Refuse arguments of the stock class that it would take and fail with."""

    def routed_stages(self) -> tuple[Sequence[int], Sequence[int]]:
        """Number of blocks, and of channels, of each stage."""
        raise NotImplementedError

    def default_places(self, depths: Sequence[int]) -> Sequence[Place]:
        """Where decisions are taken unless ``sparsity`` says otherwise: before the second block of each stage."""
        return [(stage, 1) for stage, depth in enumerate(depths) if depth > 1]

    def check_block(self, stage: int, number: int) -> None:
        """Refuse a block that the family cannot route."""

    def attention_of(self, block: nn.Module, x: Tensor, size: Size) -> Any:
        """The attention of a block to come, for scorers (``scorers.Attention``); None where blocks have none."""
        return None

    def dense_block(self, block: nn.Module, x: Tensor, size: Size) -> Tensor:
        return block(x)

    def routed_block(self, block: nn.Module, x: Tensor, size: Size, paths: Paths) -> Tensor:
        """A block of which only what is selected takes the slow path.

        Args:
            block: The stock block.
            x: What it is given: maps (B, C, H, W), or tokens (B, H * W, C).
            size: Height and width.
            paths: The selection and the fast path, and layers made of both.
        """
        raise NotImplementedError

    def run_stage(self, stage: int, blocks: Iterable[nn.Module], x: Tensor, size: Size | None = None) -> Tensor:
        """The blocks of a stage, one after the other; ``size`` is that of tokens (B, H * W, C)."""
        selection = None
        for number, block in enumerate(blocks):
            now = (int(x.shape[-2]), int(x.shape[-1])) if size is None else size
            selection = self.select(stage, number, block, x, now, selection)
            if selection is None:
                x = self.dense_block(block, x, now)
            else:
                x = self.routed_block(block, x, now, self.router.paths(stage, number, selection))
        return x

    def select(
        self, stage: int, number: int, block: nn.Module, x: Tensor, size: Size, before: Selection | None
    ) -> Selection | None:
        """What a block's slow path is for: decided here where the block is a place, else that of the block before."""
        if self.router is None or (stage, number) not in self.router.places:
            return before
        geometry = Geometry(size, self.tile)
        features = x if x.dim() == 4 else x[:, x.shape[1] - geometry.units :]
        attention = self.attention_of(block, x, size)
        return self.router.decide(stage, number, features, geometry, before=before, attention=attention)

    def check_pictures(self, x: Tensor, stride: int = 1) -> None:
        """Refuse what is no batch of pictures, or smaller than a stride that needs a whole one."""
        name = type(self).__name__
        if x.dim() != 4:
            raise ValueError(f"{name}: expected images of shape (B, C, H, W), but got {tuple(x.shape)}")
        if min(x.shape[-2:]) < stride:
            raise ValueError(
                f"{name}: expected images of at least {stride}x{stride} pixels (its stride), "
                f"but got {x.shape[-2]}x{x.shape[-1]}. Enlarge the pictures or pad them"
            )

    def train(self, mode: bool = True) -> "RoutedBackbone":
        super().train(mode)
        return self  # some stock classes return nothing

    def _freeze_stages(self) -> None:
        """The stock class may call this before there is a router."""
        if hasattr(super(), "_freeze_stages"):
            super()._freeze_stages()
        if getattr(self, "router", None) is not None:
            frozen = getattr(self, "frozen_stages", 0)
            self.router.freeze_before((0, frozen) if self.plain else (frozen, 0))

    def _build_router(self, sparsity: Mapping[str, Any]) -> BlockRouter:
        where = "Argument `sparsity`"
        if not isinstance(sparsity, dict):
            raise TypeError(f"Expected argument `sparsity` to be a dict or None, but got {sparsity!r}")
        if "skip_windows" in sparsity and "skip_windows" not in self.own_keys:
            raise ValueError(f"{where}: skip_windows is only for mmsparse.DynamicSwin. Remove it")
        check_keys(where, sparsity, {*router_keys(BlockRouter), *self.own_keys})
        given = {key: value for key, value in sparsity.items() if key not in self.own_keys}
        depths, channels = self.routed_stages()
        with mistakes_in(where):
            router = BlockRouter(
                depths,
                channels,
                self.default_places(depths),
                self.plain,
                **{"fast_path": dict(type=self.fast_path), **given},
            )
            for stage, block in router.routed:
                self.check_block(stage, block)
        for decider in router.decisions.values():
            if decider.scorer.reads_attention and type(self).attention_of is RoutedBackbone.attention_of:
                raise ValueError(
                    f"{where}: {type(decider.scorer).__name__} reads attention, which this backbone lacks. "
                    "Use FeatureNormScorer, or any other scorer"
                )
        return router


def checkpointed(run: Callable[[Tensor], Tensor], x: Tensor, wanted: bool) -> Tensor:
    """The function of a block, whose activations are computed again in the backward pass if that is wanted."""
    if wanted and x.requires_grad:
        return cp.checkpoint(run, x, use_reentrant=False)
    return run(x)
