"""Do the scores find what matters? What of the labels lies on the slow path, place by place and ratio by ratio.

Beside a network's own scores stand, in the same forward, those of chance and of the features' norm.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmsparse.apis import dense_twin, find_deciders
from mmsparse.calls import call_of, predict, prepare_batch
from mmsparse.sparsity import (
    Context,
    Decider,
    FeatureNormScorer,
    Geometry,
    RandomScorer,
    Scorer,
    Selection,
    num_keep,
    scored_by,
    unit_features,
)
from mmsparse.sparsity.selectors import BURIED, best_of

from .score_targets import ignored_label, score_targets
from .wanted import Objects, dense_head, objects_of

OWN, NORM, RANDOM = "own", "norm", "random"
SCORES = (OWN, NORM, RANDOM)
RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# of an object detector, and of a segmenter
CENTRES, POSITIVES, AREA = "centres", "positives", "area"
EDGES, LOST = "edges", "lost"

BUDGET = "budget"  # in place of a keep ratio: the place's own
Shares = dict[str, dict[str, dict[float | str, dict[str, float]]]]  # place, whose scores, keep ratio, what -> share


@dataclass(frozen=True, eq=False)
class Scored:
    """What one place saw in a forward of one picture: the scores (N,) by their kind, and which units count."""

    place: str
    geometry: Geometry
    scores: dict[str, Tensor]
    alive: Tensor | None

    def chosen(self, kind: str, keep_ratio: float) -> Selection:
        """What these scores choose at a ratio."""
        scores = self.scores[kind].float().unsqueeze(0)
        count = scores.shape[1]
        if self.alive is not None:
            scores = scores.masked_fill(~self.alive, BURIED)
            count = int(self.alive.sum())
        return Selection(self.geometry, best_of(scores, (num_keep(keep_ratio, count),))[0])


class _Listening(Scorer):
    """A place's own scorer, beside which others are asked."""

    def __init__(self, decider: Decider, seen: list[Scored]) -> None:
        super().__init__(decider.scorer.channels)
        self._decider, self._seen = (decider,), seen
        self.reads_attention = decider.scorer.reads_attention
        self.reads_map = decider.scorer.reads_map
        self.scores_any = False  # all units are scored, whatever was dropped before
        random = RandomScorer(self.channels).eval()
        random.index = decider.scorer.index
        self._others = {NORM: FeatureNormScorer(self.channels), RANDOM: random}

    def forward(self, features: Tensor, context: Context) -> Tensor:
        (decider,) = self._decider
        own = decider.scorer(features, context)
        tokens = unit_features(features, context.geometry) if self.reads_map else features
        scores = {OWN: own, **{kind: other(tokens, context) for kind, other in self._others.items()}}
        if context.geometry.of_regions:
            return own
        first = {kind: values[0].cpu() for kind, values in scores.items()}
        alive = None if context.alive is None else context.alive[:1].cpu()
        self._seen.append(Scored(decider.name, context.geometry, first, alive))
        return own


@contextmanager
def listening(model: nn.Module) -> Iterator[list[Scored]]:
    """Collect what all places of a model score inside a with-block, for the first picture of each batch."""
    seen: list[Scored] = []
    with scored_by({decider: _Listening(decider, seen) for decider in find_deciders(model)}):
        yield seen


def shares(
    model: nn.Module,
    pictures: Sequence[dict[str, Any]],
    ratios: Sequence[float] = RATIOS,
) -> Shares:
    """Share of what the labels want that lies on the slow path, over all pictures.

    Every place sees what it does at the model's budgets; its choice is taken at its own and at each ratio. Places that
    work on one level of a pyramid each are followed by all levels of their part together.

    Args:
        model: A detector or segmenter with dynamic parts, in evaluation.
        pictures: Samples with labels; boxes are in pixels of the network's input.
        ratios: Keep ratios.
    """
    look = _look_at_objects if dense_head(model) is not None else _look_at_labels
    budgets = {decider.name: decider.keep_ratio for decider in find_deciders(model)}
    sums: dict[tuple, Tensor] = {}
    for picture in pictures:
        batch = prepare_batch(model, [picture])
        with torch.no_grad(), listening(model) as seen:
            measure = look(model, batch)
        for scored in seen:
            for kind in SCORES:
                for ratio in (BUDGET, *ratios):
                    chosen = scored.chosen(kind, budgets[scored.place] if ratio == BUDGET else ratio)
                    found = measure(scored, chosen)
                    names = [scored.place, *([all_levels(scored.place)] if POSITIVES in found else [])]
                    for name, (what, numbers) in itertools.product(names, found.items()):
                        key = (name, kind, ratio, what)
                        sums[key] = sums.get(key, torch.zeros(2)) + torch.tensor(numbers, dtype=torch.float32)
    result: Shares = {}
    for (place, kind, ratio, what), (inside, all_) in sums.items():
        at = result.setdefault(place, {}).setdefault(kind, {}).setdefault(ratio, {})
        at[what] = float(inside / all_) if all_ else float("nan")
    return result


def all_levels(place: str) -> str:
    """The name of all levels of a place's part."""
    return f"{place.partition('.')[0]}, all levels"


Measure = Callable[[Scored, Selection], dict[str, tuple[float, float]]]  # what lies on the slow path, of how much


def _look_at_objects(model: nn.Module, batch: dict[str, Any]) -> Measure:
    objects = objects_of(model, batch)
    size = tuple(batch["inputs"].shape[-2:])

    def measure(scored: Scored, selection: Selection) -> dict[str, tuple[float, float]]:
        slow = selection.on_picture(size)
        level = _level_of(scored, objects)
        mine = torch.ones(len(objects.boxes), dtype=torch.bool) if level is None else objects.levels == level
        boxes = objects.boxes[mine]
        x, y = ((boxes[:, i] + boxes[:, i + 2]).div(2).long().clamp(0, size[1 - i] - 1) for i in (0, 1))
        within = [slow[y0:y1, x0:x1] for x0, y0, x1, y1 in boxes.round().long().clamp_min(0).tolist()]
        inside, area = sum(int(part.sum()) for part in within), sum(part.numel() for part in within)
        found = {CENTRES: (int(slow[y, x].sum()), len(boxes)), AREA: (inside, area)}
        if level is not None:
            where = objects.positives[level]
            found[POSITIVES] = (int((where & selection.on_picture(where.shape)).sum()), int(where.sum()))
        return found

    return measure


def _level_of(scored: Scored, objects: Objects) -> int | None:
    """The level of the pyramid that a place of a neck or head works on; a backbone works for all."""
    sizes = [tuple(level.shape) for level in objects.positives]
    if scored.place.partition(".")[0] not in ("neck", "head", "rpn") or scored.geometry.size not in sizes:
        return None
    return sizes.index(scored.geometry.size)


def _look_at_labels(model: nn.Module, batch: dict[str, Any]) -> Measure:
    (sample,) = predict(model, batch)
    mine = sample.pred_sem_seg.data[0].cpu()
    with dense_twin(model):
        (sample,) = predict(model, batch)
    dense, labels = sample.pred_sem_seg.data[0].cpu(), batch["data_samples"][0].gt_sem_seg.data[0].cpu()
    lost = (dense == labels) & (mine != labels)
    edges = _edges(labels, ignored_label(model))

    def measure(scored: Scored, selection: Selection) -> dict[str, tuple[float, float]]:
        slow = selection.on_picture(labels.shape)
        return {
            name: (int((region & slow).sum()), int(region.sum())) for name, region in ((EDGES, edges), (LOST, lost))
        }

    return measure


def _edges(labels: Tensor, ignored: int) -> Tensor:
    """Pixels (H, W) whose right or lower neighbour has another label; nothing borders on what is ignored."""
    edges, known = torch.zeros(labels.shape, dtype=torch.bool), labels != ignored
    edges[:, :-1] |= (labels[:, :-1] != labels[:, 1:]) & known[:, :-1] & known[:, 1:]
    edges[:-1] |= (labels[:-1] != labels[1:]) & known[:-1] & known[1:]
    return edges


class _Oracle(Scorer):
    """Those units first that the labels want; the place's own scores for the rest."""

    def __init__(self, decider: Decider, now: dict[str, Any]) -> None:
        super().__init__(decider.scorer.channels)
        self._decider, self._now = (decider,), now
        self.reads_attention, self.reads_map = decider.scorer.reads_attention, decider.scorer.reads_map
        self.scores_any = False

    def forward(self, features: Tensor, context: Context) -> Tensor:
        own = self._decider[0].scorer(features, context).float()
        if context.geometry.of_regions:
            return own
        nothing = Selection(context.geometry, torch.zeros_like(own, dtype=torch.bool))
        wanted = score_targets(self._now["samples"], nothing, self._now["size"], self._now["ignored"])
        return own + wanted * (own.amax() - own.amin() + 1.0)


@contextmanager
def chosen_by_labels(model: nn.Module, deciders: Sequence[Decider]) -> Iterator[None]:
    """Inside a with-block some places choose by the labels of the pictures that the model is given."""
    now: dict[str, Any] = dict(ignored=ignored_label(model))

    def see(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        inputs, samples, _ = call_of(args, kwargs)
        now.update(samples=samples, size=inputs.shape[-2:])

    handle = model.register_forward_pre_hook(see, with_kwargs=True)
    try:
        with scored_by({decider: _Oracle(decider, now) for decider in deciders}):
            yield
    finally:
        handle.remove()


@contextmanager
def chosen_by(deciders: Sequence[Decider], kind: str) -> Iterator[None]:
    """Inside a with-block some places choose by the features' norm, or by chance."""
    scorers = {}
    for decider in deciders:
        scorers[decider] = {NORM: FeatureNormScorer, RANDOM: RandomScorer}[kind](decider.scorer.channels).eval()
        scorers[decider].index = decider.scorer.index
    with scored_by(scorers):
        yield
