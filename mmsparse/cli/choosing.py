"""What ``mmsparse choice`` evaluates and says."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from mmengine.config import Config, ConfigDict
from torch import nn
from tqdm import tqdm

from mmsparse.analysis import count_macs
from mmsparse.analysis.choice import BUDGET, NORM, OWN, RANDOM, Shares, chosen_by, chosen_by_labels
from mmsparse.apis import budget, dense_twin, find_deciders, find_routers
from mmsparse.calls import predict, prepare_batch
from mmsparse.checkpoints import load_weights
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import Built
from mmsparse.cli.launch import build_runner, quiet
from mmsparse.cli.preflight import check_testing

METRICS = ("coco/bbox_mAP", "mIoU", "coco/proposal_AR@100")
OWN_SCORES, WHOLE, DENSE = "its own scores", "everything kept", "the dense checkpoint"
NARROWER = "the narrower network"
BY_LABELS = "the labels"
NEARLY_ALL = 0.97


def with_labels(cfg: Config) -> None:
    """Let the pipeline of a detector's test set read boxes before it resizes, so that they are in input pixels."""
    dataset = cfg.get("test_dataloader", {}).get("dataset")
    if cfg.get("default_scope") != "mmdet" or not isinstance(dataset, dict) or "pipeline" not in dataset:
        return
    steps = list(dataset.pipeline)
    labels = [step for step in steps if step["type"].endswith("LoadAnnotations")]
    others = [step for step in steps if step not in labels]
    labels = labels or [ConfigDict(type="LoadAnnotations", with_bbox=True)]
    dataset.pipeline = [*others[:1], *labels, *others[1:]]


def check_labels(picture: dict[str, Any], config: str) -> None:
    sample = picture["data_samples"]
    if not ("gt_instances" in sample and "bboxes" in sample.gt_instances) and "gt_sem_seg" not in sample:
        raise ValueError(
            f"The test set of {config} has no labels, boxes or label maps, to hold the choice against. Let "
            "test_dataloader name the validation set"
        )


def metrics_of(
    cfg: Config, built: Built, dense: str | None, narrower: tuple[Config, Built] | None
) -> dict[str, dict[str, float]]:
    """The config's metrics on its test set, by who chooses, and of what else is at hand."""
    found = {}
    with quiet():
        runner = build_runner(cfg, built)
    model = runner.model
    ways = dict(_ways(model))
    bar = tqdm(total=len(ways) + bool(dense) + bool(narrower), desc="evaluating", leave=False)
    for name, context in ways.items():
        with context, quiet():
            found[name] = numbers_of(runner.test())
        bar.update()
        if not found[OWN_SCORES]:
            bar.close()
            raise ValueError(
                f"Argument `checkpoint`: the network finds nothing in the test set, or its evaluator gives none of "
                f"{METRICS}. Train it first, or look without metrics: --no-metrics"
            )
    if dense:
        with dense_twin(model), quiet():  # it lacks all that routes, of which each key would be named
            load_weights(model, dense, "dense")
            found[DENSE] = numbers_of(runner.test())
        bar.update()
    if narrower:
        with quiet():
            found[NARROWER] = numbers_of(build_runner(*narrower).test())
    bar.close()
    return {who: {name: metrics.get(name, 0.0) for name in found[OWN_SCORES]} for who, metrics in found.items()}


def narrower_network(cfg: Config, config: str, checkpoint: str) -> tuple[Config, Built]:
    """Another network, to be evaluated on this one's test set."""
    other = open_config(config, {})
    for name in ("test_dataloader", "test_evaluator", "test_cfg", "default_scope", "work_dir"):
        other[name] = cfg[name]
    other.load_from, other.resume = None, False
    if "visualizer" in other:
        other.visualizer.name = "narrower"  # of one name there is one a process
    return other, check_testing(other, checkpoint, None)


def macs_of(model: nn.Module, picture: dict[str, Any]) -> int:
    """What a model executes for a picture."""
    batch = prepare_batch(model, [picture])
    return count_macs(model, lambda: predict(model, batch)).total


def numbers_of(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(metrics[name]) for name in METRICS if name in metrics}


def _ways(model: nn.Module) -> Iterator[tuple[str, AbstractContextManager[Any]]]:
    places = find_deciders(model)
    parts = {name or "backbone": router for name, router in find_routers(model).items() if list(router.dials)}
    yield OWN_SCORES, nullcontext()
    yield "the features' norm", chosen_by(places, NORM)
    yield "chance", chosen_by(places, RANDOM)
    for name, router in parts.items():
        yield f"{BY_LABELS} in the {name}", chosen_by_labels(model, router.dials)
    if len(parts) > 1:
        yield f"{BY_LABELS} everywhere", chosen_by_labels(model, places)
    for name in parts if len(parts) > 1 else ():
        yield f"{name} kept whole", budget({name: 1.0}, model)
    yield WHOLE, dense_twin(model)


def say_shares(model: nn.Module, found: Shares, count: int) -> str:
    """One row a place, at its budget: what lies on the slow path by the place's own scores, the norm's and chance.

    In the last column the keep ratio at which its scores have nearly all of the first of these there.
    """
    budgets = {decider.name: decider.keep_ratio for decider in find_deciders(model)}
    whats = list(dict.fromkeys(what for kinds in found.values() for at in kinds[OWN].values() for what in at))
    lines = [
        f"share of what the labels want on the slow path, {count} pictures of the test set:",
        "own scores / the features' norm / chance",
        f"{'place':<24}{'keep':>6}" + "".join(f"{what:>20}" for what in whats) + f"{f'{NEARLY_ALL:.0%} at':>9}",
    ]
    for place, kinds in found.items():
        cells = [[kinds[kind][BUDGET].get(what) for kind in (OWN, NORM, RANDOM)] for what in whats]
        ratio = f"{budgets[place]:.2f}" if place in budgets else ""
        row = ["-" if None in cell else " / ".join(f"{value:.2f}" for value in cell) for cell in cells]
        needed = enough(kinds[OWN], whats[0])
        lines.append(f"{place:<24}{ratio:>6}" + "".join(f"{cell:>20}" for cell in row) + f"{needed:>9}")
    return "\n".join(lines)


def enough(curve: Mapping[float, Mapping[str, float]], what: str) -> str:
    """The least keep ratio that was looked at which has nearly all of it on the slow path."""
    ratios = [ratio for ratio, at in curve.items() if ratio != BUDGET and at[what] >= NEARLY_ALL]
    return f"{min(ratios):.2f}" if ratios else "> 0.9"


def say_metrics(found: dict[str, dict[str, float]], macs: dict[str, int] | None) -> str:
    names = list(found[OWN_SCORES])
    lines = [f"{'who chooses':<32}" + "".join(f"{name:>18}" for name in names)]
    lines += [f"{who:<32}" + "".join(f"{m[name]:>18.4f}" for name in names) for who, m in found.items()]
    return "\n".join([*lines, *say_losses(found), *([say_width(found, macs)] if macs else [])])


def say_width(found: dict[str, dict[str, float]], macs: dict[str, int]) -> str:
    """Is there anything to preserve, and is it preserved?"""
    value = {who: next(iter(metrics.values())) for who, metrics in found.items()}
    name = next(iter(found[OWN_SCORES]))
    wide = DENSE if DENSE in value else WHOLE
    worth, left = value[wide] - value[NARROWER], value[OWN_SCORES] - value[NARROWER]
    costs = " and ".join(f"{who} {number / 1e9:.2f}" for who, number in macs.items())
    if worth <= 0:
        verdict = "nothing: take the narrower one, there is nothing to preserve"
    elif left <= 0:
        verdict = f"{worth:.4f}, of which routing keeps nothing: as it is, the narrower one is the better network"
    else:
        verdict = f"{worth:.4f}, of which routing keeps {left:.4f}"
    return f"{name}: width is worth {verdict} ({wide} against {NARROWER}; GMACs of a picture: {costs})"


def say_losses(found: dict[str, dict[str, float]]) -> list[str]:
    """Where the metric is lost, from the dense network to the routed one, and what helps first."""
    value = {who: next(iter(metrics.values())) for who, metrics in found.items()}
    name = next(iter(found[OWN_SCORES]))
    best = max((who for who in value if who.startswith(BY_LABELS)), key=value.get)
    steps = [
        (OWN_SCORES, best, "choice", "better scores help first: labels as teachers (score_weight), more training"),
        (best, WHOLE, "the fast path", "a higher budget or a better fast path helps first"),
    ]
    if DENSE in value:
        steps.append((WHOLE, DENSE, "training", "better training helps first: a teacher, more iterations"))
    losses = [(value[better] - value[worse], why, advice, worse, better) for worse, better, why, advice in steps]
    lines = [f"{name} lost by {why}: {lost:.4f} ({worse} against {better})" for lost, why, _, worse, better in losses]
    most = max(losses)
    return [*lines, f"most by {most[1]}: {most[2]}" if most[0] > 0 else "nothing is lost"]
