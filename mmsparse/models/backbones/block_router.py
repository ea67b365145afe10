"""What a backbone needs besides its dense parameters: decisions at places, and fast paths behind them."""

from collections.abc import Collection, Sequence
from typing import Any

from mmengine.model import ModuleDict
from torch import Tensor

from mmsparse.mistakes import mistakes_in
from mmsparse.registry import build, check_keys
from mmsparse.sparsity import (
    Decider,
    FastPath,
    Path,
    Router,
    Scorer,
    Selection,
    Selector,
    SharedScorer,
    num_keep,
    router_keys,
    valid_locations,
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
        places: (stage, block) pairs, counted from 0. Or "every_stage": the default ones, and of all other stages the
            second block.
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

    def decide(self, stage: int, block: int, tokens: Tensor, grid: tuple[int, int], **more: Any) -> Selection | None:
        """The selection from one of the places on; see :meth:`Decider.forward`."""
        return self.decisions[f"{stage}_{block}"](tokens, grid, valid=valid_locations(grid, tokens), **more)

    def fast_path(self, stage: int, block: int) -> Path:
        module = self.fast_paths[f"{stage}_{block}"]
        return lambda rows, _: module(rows)

    def kept_of_stage(self, stage: int, locations: int) -> dict[int, int]:
        """Number of slow locations of each routed block of a stage, for one map of so many locations."""
        kept, current = {}, locations
        for block in (block for s, block in self.routed if s == stage):
            if (stage, block) in self.places:
                current = num_keep(self.decisions[f"{stage}_{block}"].keep_ratio, locations)
            kept[block] = current
        return kept

    def overhead_of_stage(self, stage: int, locations: int, pairs: int | None = None) -> int:
        """Multiply-accumulates of a stage's scorers and fast paths for one map.

        Args:
            stage: Which one.
            locations: Of its map.
            pairs: How many pairs of locations its attention compares.
        """
        total, left = 0, locations
        for s, block in self.places:
            decision = self.decisions[f"{s}_{block}"]
            if s == stage and decision.keep_ratio < 1.0:
                scorer = decision.scorer
                total += scorer.macs(locations, pairs) if scorer.reads_attention else scorer.macs(left)
                if self.cumulative:
                    left = num_keep(decision.keep_ratio, locations)
        for block, kept in self.kept_of_stage(stage, locations).items():
            total += self.fast_paths[f"{stage}_{block}"].macs(locations - kept)
        return total

    def freeze_before(self, place: Place) -> None:
        """Freeze the decisions and fast paths of earlier blocks, as their backbone freezes the blocks."""
        for table in (self.decisions, self.fast_paths):
            for name, module in table.items():
                if tuple(map(int, name.split("_"))) < place:
                    module.eval().requires_grad_(False)


def build_router(
    sparsity: dict[str, Any] | None,
    depths: Sequence[int],
    channels: Sequence[int],
    default_places: Sequence[Place],
    plain: bool = False,
    attends: bool = True,
    own: Collection[str] = (),
) -> BlockRouter | None:
    """The router that a backbone's argument ``sparsity`` asks for; None for a dense one.

    ``attends`` says whether the backbone has attention that scorers may read, ``own`` names the keys of ``sparsity``
    that it reads itself.
    """
    if sparsity is None:
        return None
    if not isinstance(sparsity, dict):
        raise TypeError(f"Expected argument `sparsity` to be a dict or None, but got {sparsity!r}")
    if "skip_windows" in sparsity and "skip_windows" not in own:
        raise ValueError("Argument `sparsity`: skip_windows is only for mmsparse.DynamicSwin. Remove it")
    check_keys("Argument `sparsity`", sparsity, {*router_keys(BlockRouter), *own})
    arguments = {key: value for key, value in sparsity.items() if key not in own}
    with mistakes_in("Argument `sparsity`"):
        router = BlockRouter(depths, channels, default_places, plain, **arguments)
    for decision in router.decisions.values():
        if decision.scorer.reads_attention and not attends:
            raise ValueError(
                f"Argument `sparsity`: {type(decision.scorer).__name__} reads attention, which this backbone lacks. "
                "Use FeatureNormScorer, or any other scorer"
            )
    return router
