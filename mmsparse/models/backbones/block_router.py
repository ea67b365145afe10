"""What a backbone needs besides its dense parameters: decisions at places, and fast paths behind them."""

from collections.abc import Sequence
from typing import Any

from mmengine.model import ModuleDict
from torch import Tensor

from mmsparse.registry import build
from mmsparse.sparsity import (
    Decider,
    FastPath,
    Geometry,
    Paths,
    Router,
    Scorer,
    Selection,
    Selector,
    SharedScorer,
)
from mmsparse.sparsity.decider import check_flags

from .places import EVERY_STAGE, Place, check_default_places, check_places, expand_keep_ratio, routed_blocks

SELECTED, ENTERING = "selected", "entering"  # what a transformer's block attends to


class BlockRouter(Router):
    """All that a backbone needs besides its dense parameters: decisions, fast paths and their budgets.

    A decision taken at a place holds for its block and the later blocks of the stage, until the next place.

    Args:
        depths: Number of blocks of each stage.
        channels: Number of channels of each stage.
        default_places: Where decisions are taken unless ``places`` says otherwise.
        plain: The backbone has no hierarchy: successive places keep r, r^2, r^3.
        keep_ratio: One number (expanded by the paper's rule, see ``expand_keep_ratio``) or one per place.
        places: (stage, block) pairs, counted from 0, or block numbers where there is no hierarchy. Or "every_stage":
            the default ones, and of all other stages the second block.
        scorer: Config of the scorers.
        selector: Config of the selectors.
        fast_path: Config of the fast paths.
        explore: Fraction of unselected rows whose slow value informs the scorer in training.
        detach: Whether scorers read detached features.
        learn: What teaches the scores, see :class:`Router`.
        share_scorer: One scorer for all places; a linear layer brings stages of more channels to the fewest.
        cumulative: What a place drops stays dropped (plain backbones only). With exact counts what it drops is then
            judged by the blocks up to the next place, see ``learn``.
        keys: "selected": a block attends to what it computes. "entering": to what the block before it computed, which
            is more where a place drops something (with ``cumulative`` only).
    """

    def __init__(
        self,
        depths: Sequence[int],
        channels: Sequence[int],
        default_places: Sequence[Place],
        plain: bool = False,
        *,
        keep_ratio: float | Sequence[float] = 0.7,
        places: Sequence[Place] | str | None = None,
        scorer: dict[str, Any] | None = None,
        selector: dict[str, Any] | None = None,
        fast_path: dict[str, Any] | None = None,
        explore: float = 1.0,
        detach: bool = True,
        learn: str | None = None,
        share_scorer: bool = False,
        cumulative: bool = False,
        keys: str = SELECTED,
    ) -> None:
        super().__init__(explore, detach, learn)
        check_flags(share_scorer=share_scorer, cumulative=cumulative)
        if keys not in (SELECTED, ENTERING):
            raise ValueError(f"Expected argument `keys` to be {SELECTED!r} or {ENTERING!r}, but got {keys!r}")
        if keys == ENTERING and not cumulative:
            raise ValueError(
                f"keys={ENTERING!r} is for tokens that are dropped for good: add cumulative=True, or remove it"
            )
        if cumulative and not plain:
            raise ValueError(
                "cumulative=True drops locations for good, but a hierarchical backbone keeps its "
                "maps whole. Remove it, or use mmsparse.DynamicViT"
            )
        if places is None or places == EVERY_STAGE:
            check_default_places(default_places, depths, plain)
            others = set(range(len(depths))) - {stage for stage, _ in default_places} if places else ()
            places = sorted([*default_places, *((stage, 1) for stage in others if depths[stage] > 1)])
        self.places = check_places(places, depths, plain)
        self.plain = plain
        self.cumulative = cumulative
        self.keys = keys
        self.fast_paths = ModuleDict()
        scorer = scorer or dict(type="LocalGlobalScorer")
        narrow = min(channels[stage] for stage, _ in self.places)
        self.shared_scorer = shared = build(scorer, Scorer, "scorer", channels=narrow) if share_scorer else None
        for index, (stage, block) in enumerate(self.places):
            if shared is None:
                part = build(scorer, Scorer, "scorer", channels=channels[stage])
                part.index = index
            else:
                part = SharedScorer(shared, channels[stage])
            choice = build(selector or dict(type="TopKSelector"), Selector, "selector")
            name = f"b{block}" if plain else f"s{stage}b{block}"
            self.decisions[f"{stage}_{block}"] = Decider(name, part, choice, detach, cumulative, learn)
        self.routed = routed_blocks(self.places, depths)
        fast_path = fast_path or dict(type="LinearFastPath")
        for stage, block in self.routed:
            made = build(fast_path, FastPath, "fast_path", channels=channels[stage])
            self.fast_paths[f"{stage}_{block}"] = made
        self.set_keep_ratio(keep_ratio)

    def expand(self, keep_ratio: float | Sequence[float]) -> Sequence[float]:
        ratios = expand_keep_ratio(keep_ratio, self.places, geometric=self.plain)
        if self.cumulative and list(ratios) != sorted(ratios, reverse=True):
            raise ValueError(
                f"Expected argument `keep_ratio` to fall from place to place, because cumulative=True never brings a "
                f"location back, but got {list(ratios)}"
            )
        return ratios

    def decide(self, stage: int, block: int, tokens: Tensor, geometry: Geometry, **more: Any) -> Selection | None:
        """The selection from one of the places on; see :meth:`Decider.forward`."""
        return self.decisions[f"{stage}_{block}"](tokens, geometry, **more)

    def paths(self, stage: int, block: int, selection: Selection) -> Paths:
        """Those of a routed block."""
        return Paths(selection, self.fast_paths[f"{stage}_{block}"], self.explore)

    def freeze_before(self, place: Place) -> None:
        """Freeze the decisions and fast paths of earlier blocks, as their backbone freezes the blocks."""
        for table in (self.decisions, self.fast_paths):
            for name, module in table.items():
                if tuple(map(int, name.split("_"))) < place:
                    module.eval().requires_grad_(False)
