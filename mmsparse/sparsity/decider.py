"""Places of a network where it is decided what takes the slow path, and their budgets."""

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmengine.model import ModuleDict
from torch import Tensor, nn

from mmsparse.ops import OfThread, put_together
from mmsparse.registry import build

from .budget import anneal
from .dials import Dial, Tunable
from .gain import GATE, WAYS, gain_gate
from .scorers import Context, Scorer
from .selection import Geometry, Selection
from .selectors import BURIED, Selector
from .units import unit_features
from .valid import Valid, valid_units

DEEP, ENOUGH = 2, 32  # convolutions of a PeakScorer whose choice serves several layers, if there are such channels


@dataclass(frozen=True, eq=False)
class Aux:
    """What one place decided in a training forward; the losses need it."""

    name: str
    selection: Selection
    scores: Tensor  # (B, N)
    keep_ratio: float
    valid: Tensor | None = None  # boolean (B, N), the locations that count; None: all
    regression: Tensor | None = None  # the zero of ``gain_gate``; the ratio loss is for places without it


class Decider(Dial):
    """One place of a network: a scorer, a selector and a budget.

    Args:
        name: How logs call this place.
        scorer: Module, tokens (B, N, C) -> scores (B, N).
        selector: Module, scores and budget -> Selection.
        detach: Whether the scorer reads features without sending gradients into them.
        cumulative: Whether it chooses among the locations that the place before it kept.
        learn: What teaches the scores, see :class:`Router`.

    Attributes:
        keep_ratio: The budget that evaluation uses and training ends with.
        progress: How far training has come from all-dense (0) to the budget (1); set by the hook.
    """

    def __init__(
        self,
        name: str,
        scorer: Scorer,
        selector: nn.Module,
        detach: bool = True,
        cumulative: bool = False,
        learn: str | None = None,
    ) -> None:
        learn = selector.learn if learn is None else learn
        if learn != GATE and not selector.holds_count:
            raise ValueError(
                f"Argument `learn`={learn!r}: nothing would hold the count of a {type(selector).__name__}, which the "
                f"ratio loss does otherwise. Use TopKSelector, or learn={GATE!r}"
            )
        super().__init__(name)
        self.scorer = scorer
        self.selector = selector
        self.detach = detach
        self.cumulative = cumulative
        self.learn = learn
        self.progress = 1.0
        self.of_regions = False  # of which a step may have none
        self.collected = False  # becomes True once something promises to take what waits here after each forward
        self._waiting: list[Aux] = []

    def forward(
        self,
        features: Tensor,
        geometry: Geometry,
        before: Selection | None = None,
        attention: Any = None,
    ) -> Selection | None:
        """Decide for a map; None means that everything stays on the dense path.

        Where the map is padded, what is beyond the pictures is never slow, unless all is.

        Args:
            features: A map (B, C, H, W), or (B, N, C) of each unit.
            geometry: What the N units are.
            before: What the place before it selected, if anything.
            attention: The attention of the block to come, for scorers that read it (``scorers.Attention``).
        """
        selection = self._decide(features, geometry, before if self.cumulative else None, attention)
        for record in _RECORDS.value if selection is not None else ():
            if self in record.deciders:
                record.taken.append((self.name, selection))
        return selection

    def _decide(
        self,
        features: Tensor,
        geometry: Geometry,
        before: Selection | None,
        attention: Any,
    ) -> Selection | None:
        if not self.training and self.keep_ratio >= 1.0:
            return before
        valid = valid_units(geometry, features)
        scorer = _SCORERS.value.get(self, self.scorer)
        if scorer.reads_attention:
            attention = replace(attention, graph=not self.detach)
        context = Context(geometry, _alive(before, valid), valid, attention)
        tokens = _as_it_reads(scorer, features, geometry)
        if not self.training:
            if before is not None and before.common_count is not None and scorer.scores_any:
                scores = _score_survivors(scorer, tokens, before)
            else:
                scores = scorer(tokens, context)
            return self.selector(scores, geometry, self.keep_ratio, before=before, valid=valid)
        keep_ratio, noise = anneal(self.keep_ratio, self.progress), 1.0 - self.progress
        scores = scorer(tokens.detach() if self.detach else tokens, context)
        selection = self.selector(scores, geometry, keep_ratio, noise=noise, before=before, valid=valid)
        regression = None
        if self.learn != GATE and scores.requires_grad:
            gate, regression = gain_gate(scores, selection.keep_mask, self.learn, context.alive)
            selection = replace(selection, gate=gate).within(before)
        if torch.is_grad_enabled():
            counts = None if valid is None else valid.mask
            self._leave(Aux(self.name, selection, scores, keep_ratio, counts, regression))
        return selection

    def _leave(self, aux: Aux) -> None:
        if self._waiting and not self.collected and not self.of_regions:  # of these a step may bring several
            raise RuntimeError(
                f"Nobody took the ratio loss of place '{self.name}' after the last training step. Add "
                "custom_hooks=[dict(type='mmsparse.SparsityHook')] to the config (a child config that defines "
                "custom_hooks replaces its parent's list), or call mmsparse.pop_aux(model) in your own loop."
            )
        self._waiting.append(aux)

    def pop_aux(self) -> list[Aux]:
        """Take what the training forwards since the last call decided."""
        waiting, self._waiting = self._waiting, []
        return waiting


def _as_it_reads(scorer: Scorer, features: Tensor, geometry: Geometry) -> Tensor:
    """Maps (B, C, H, W), or the features of units (B, N, C)."""
    if scorer.reads_map:
        return features if features.dim() == 4 else features.transpose(1, 2).unflatten(2, geometry.size)
    return unit_features(features, geometry) if features.dim() == 4 else features


def _score_survivors(scorer: Scorer, tokens: Tensor, before: Selection) -> Tensor:
    """Score only what is left: as many in every image."""
    batch, locations, channels = tokens.shape
    left = tokens.flatten(0, 1).index_select(0, before.keep_idx).view(batch, before.common_count, channels)
    scores = scorer(left, Context()).float().flatten()
    buried = scores.new_full((batch * locations - len(scores),), BURIED)
    return put_together(scores, buried, before.rows.inverse).view(batch, locations)


@dataclass(frozen=True, eq=False)
class _Record:
    deciders: Collection[Decider]
    taken: list[tuple[str, Selection]]


_RECORDS: OfThread[tuple[_Record, ...]] = OfThread(())


@contextmanager
def record_decisions(deciders: Collection[Decider]) -> Iterator[list[tuple[str, Selection]]]:
    """Collect what some places decide inside a with-block, in this thread."""
    record = _Record(deciders, [])
    with _RECORDS.set((*_RECORDS.value, record)):
        yield record.taken


_SCORERS: OfThread[Mapping[Decider, Scorer]] = OfThread({})


def scored_by(scorers: Mapping[Decider, Scorer]) -> AbstractContextManager[None]:
    """Other scorers at some places inside a with-block, in this thread; nothing on a model changes."""
    return _SCORERS.set({**_SCORERS.value, **scorers})


class Router(Tunable):
    """Base class of routers: decisions, and a budget for each of them.

    Args:
        explore: Fraction of unselected rows whose slow value informs the scorer in training.
        detach: Whether scorers read detached features.
        learn: What teaches the scores. "gate": the gradient of the loss through the gates, and the ratio loss.
            "gain": they regress what the slow path buys at each location by the gates' gradient, standardised in each
            picture; the selector alone holds the count. "stake": the same with the gain's magnitude. None: "stake"
            for TopKSelector; "gate" for the others, whose pictures differ in their budgets. Where nothing dropped
            returns (``cumulative``), a dropped location of an exact count is judged by the blocks up to the next place
            alone. That is about what it would have bought, because the next place would hardly have kept it; kept to
            the end it would have bought 1.5 to 3 times as much.
    """

    def __init__(self, explore: float, detach: bool, learn: str | None) -> None:
        super().__init__()
        check_flags(detach=detach)
        if learn is not None and learn not in WAYS:
            raise ValueError(f"Expected argument `learn` to be one of {WAYS}, but got {learn!r}")
        if not isinstance(explore, int | float) or not 0.0 < explore <= 1.0:
            raise ValueError(f"Expected argument `explore` to be in (0, 1], but got {explore!r}")
        self.explore = explore
        self.detach = detach
        self.learn = learn
        self.decisions = ModuleDict()  # mmengine's: torch's would keep `init_weights` from its modules

    def add(
        self,
        key: str,
        name: str,
        channels: int,
        scorer: dict[str, Any] | None,
        selector: dict[str, Any] | None,
        where: str,
        several: bool,
    ) -> Decider:
        """A new place, ``where`` there is no attention for a scorer to read, from configs of its parts.

        Unless one is given, its scorer is a PeakScorer, which looks further where the choice serves ``several`` layers.
        """
        default = dict(type="PeakScorer", deep=DEEP if several and channels >= ENOUGH else 0)
        part = build(scorer or default, Scorer, "scorer", channels=channels)
        if part.reads_attention:
            raise ValueError(
                f"{type(part).__name__} reads attention, which {where} lacks. "
                "Use FeatureNormScorer, or any other scorer"
            )
        part.index = len(self.decisions)
        choice = build(selector or dict(type="TopKSelector"), Selector, "selector")
        self.decisions[key] = decider = Decider(name, part, choice, self.detach, learn=self.learn)
        return decider

    @property
    def dials(self) -> Sequence[Decider]:
        return list(self.decisions.values())


def check_flags(**flags: bool) -> None:
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"Expected argument `{name}` to be True or False, but got {flag!r}")


def router_keys(router: type[Router]) -> set[str]:
    """What users may give a router in ``sparsity``."""
    parameters = inspect.signature(router).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def _alive(before: Selection | None, valid: Valid | None) -> Tensor | None:
    if before is None:
        return None if valid is None else valid.mask
    return before.keep_mask if valid is None else before.keep_mask & valid.mask
