"""Routing: rows of a map through slow | fast and back to a whole map; and what a backbone needs for it."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from mmengine.model import ModuleDict
from torch import Tensor

from mmsparse.mistakes import mistakes_in
from mmsparse.registry import build, check_keys

from .budget import Place, expand_keep_ratio, num_keep
from .decisions import Budgeted, Decision, check_flags, router_keys
from .fast_paths import FastPath
from .scorers import Scorer, SharedScorer
from .selection import Selection
from .selectors import Selector
from .valid import valid_locations

EVERY_STAGE = "every_stage"
SELECTED, ENTERING = "selected", "entering"  # what a transformer's block attends to
Path = Callable[[Tensor, Tensor], Tensor]  # (packed rows (R, C), their flat row numbers (R,)) -> (R, C)


def route(rows: Tensor, selection: Selection, slow: Path, fast: Path, explore: float = 1.0) -> Tensor:
    """Send every row through the path its location was given: y = gate * slow(h) + (1 - gate) * fast(h).

    The gate is hard, so only the active path is evaluated with gradients; training computes the very function that
    evaluation does. What a gate's gradient needs besides, <dL/dy, slow - fast>, is the value of the path not taken.
    It is computed without a graph, and for the expensive slow path on a random fraction of the rest if asked.

    Args:
        rows: (B * H * W, C).
        selection: Which rows go slow.
        slow: The expressive path.
        fast: The light path.
        explore: Fraction of the unselected rows whose slow value is computed for the gate's gradient (training
            only). Their gradients are scaled by its inverse, so the expectation stays.
    """
    kept, rest = selection.split(rows)
    slow_kept, fast_rest = slow(kept, selection.keep_idx), fast(rest, selection.rest_idx)
    joined = selection.join(slow_kept, fast_rest)
    if selection.gate is None or not selection.gate.requires_grad:
        return joined
    with torch.no_grad():
        sample = torch.arange(len(rest), device=rows.device)
        if explore < 1.0:
            sample = torch.randperm(len(rest), device=rows.device)[: math.ceil(explore * len(rest))]
        tried_idx = selection.rest_idx[sample]
        gain_kept = slow_kept - fast(kept, selection.keep_idx)
        gain_rest = (slow(rest[sample], tried_idx) - fast_rest[sample]) * (len(rest) / max(len(sample), 1))
        gain = torch.cat([gain_kept, gain_rest.to(gain_kept.dtype)])
        where = torch.cat([selection.keep_idx, tried_idx])
    return _GateGradient.apply(joined, selection.gate, gain, where)


class _GateGradient(torch.autograd.Function):
    """Identity on the joined rows; gives the gates the gradient <dL/dy, slow - fast>."""

    @staticmethod
    def forward(ctx: Any, joined: Tensor, gate: Tensor, gain: Tensor, where: Tensor) -> Tensor:
        ctx.save_for_backward(gain, where)
        ctx.gate_shape = gate.shape
        ctx.mark_dirty(joined)  # the very tensor, not a view, so that an activation behind may work in place
        return joined

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        gain, where = ctx.saved_tensors
        grad_gate = grad.new_zeros(grad.shape[0], dtype=torch.float32)
        grad_gate[where] = (grad[where].float() * gain.float()).sum(dim=1)
        return grad, grad_gate.view(ctx.gate_shape), None, None


class Router(Budgeted):
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
        learn: What teaches the scores, see :class:`Budgeted`.
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
            _check_default_places(default_places, depths, plain)
            others = set(range(len(depths))) - {stage for stage, _ in default_places} if places else ()
            places = sorted([*default_places, *((stage, 1) for stage in others if depths[stage] > 1)])
        self.places = _check_places(places, depths, plain)
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
            self.decisions[f"{stage}_{block}"] = Decision(name, part, choice, detach, cumulative, learn)
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
        """The selection from one of the places on; see :meth:`Decision.forward`."""
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
) -> Router | None:
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
    check_keys("Argument `sparsity`", sparsity, {*router_keys(Router), *own})
    arguments = {key: value for key, value in sparsity.items() if key not in own}
    with mistakes_in("Argument `sparsity`"):
        router = Router(depths, channels, default_places, plain, **arguments)
    for decision in router.decisions.values():
        if decision.scorer.reads_attention and not attends:
            raise ValueError(
                f"Argument `sparsity`: {type(decision.scorer).__name__} reads attention, which this backbone lacks. "
                "Use FeatureNormScorer, or any other scorer"
            )
    return router


def routed_blocks(places: Sequence[Place], depths: Sequence[int]) -> list[Place]:
    """Every block behind the first place of its stage."""
    first = {stage: min(block for s, block in places if s == stage) for stage, _ in places}
    return [(stage, block) for stage in sorted(first) for block in range(first[stage], depths[stage])]


def _check_default_places(places: Sequence[Place], depths: Sequence[int], plain: bool) -> None:
    if places and all(stage < len(depths) and block < depths[stage] for stage, block in places):
        return
    fitting = [(stage, min(1, depth - 1)) for stage, depth in enumerate(depths)]  # any keep ratio fits one a stage
    raise ValueError(
        f"The default places of the argument `places`, which are the paper's {list(places) or 'three'}, do not fit a "
        f"network with {list(depths)} blocks. Name places, such as "
        f"places={[block for _, block in fitting] if plain else fitting}"
    )


def _check_places(places: Sequence[Place], depths: Sequence[int], plain: bool) -> tuple[Place, ...]:
    allowed = f"(stage, block) pairs with stage < {len(depths)} and block < {list(depths)} of that stage"
    if plain:
        allowed = f"block numbers < {depths[0]}, or pairs (0, block)"
    if isinstance(places, str) or not isinstance(places, Sequence):
        word = "" if plain else f"{EVERY_STAGE!r} or "
        kind = ValueError if isinstance(places, str) else TypeError
        raise kind(f"Expected argument `places` to be {word}{allowed}, but got {places!r}")
    pairs = []
    for place in places:
        if not isinstance(place, Sequence) or len(place) != 2 or not all(type(n) is int for n in place):
            raise TypeError(f"Expected argument `places` to hold {allowed}, but got {place!r}")
        stage, block = place
        if not (0 <= stage < len(depths) and 0 <= block < depths[stage]):
            raise ValueError(f"Expected argument `places` to hold {allowed}, but got {tuple(place)}")
        pairs.append((stage, block))
    if not pairs or sorted(set(pairs)) != pairs:
        raise ValueError(f"Expected argument `places` to hold distinct ascending {allowed}, but got {pairs}")
    return tuple(pairs)
