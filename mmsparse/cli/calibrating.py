"""What ``mmsparse calibrate`` evaluates, remembers, says and writes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from mmsparse.apis import find_routers
from mmsparse.cli.building import Built, read_test_set
from mmsparse.cli.choosing import METRICS
from mmsparse.cli.launch import build_runner, quiet
from mmsparse.deploy.calibration import (
    Bench,
    Group,
    OutOfReachError,
    Ratios,
    dials_at,
    levelled,
    nothing_routed,
    share_of,
    solve,
    what_pays,
)
from mmsparse.files import write_whole
from mmsparse.sparsity import budgets

DIGITS = 4
MEASURED = "measured.json"
ATTEMPTS, CLOSE = 4, 0.03  # places influence each other, so what was reached corrects what is asked for


class Page:
    """What was measured so far, in a file. A run of the same ``setup`` goes on with it, whatever its target."""

    def __init__(self, path: Path, setup: dict[str, Any]) -> None:
        self.path, self.setup = path, setup
        self.dense: dict[str, Any] = {}
        self.base: dict[str, float] = {}
        self.groups: list[Group] = []
        if path.exists():
            try:
                found = json.loads(path.read_text())
                differ = [name for name in setup if found["setup"].get(name) != setup[name]]
            except (KeyError, TypeError, json.JSONDecodeError) as error:
                raise ValueError(f"Argument `out`: {path} is no page of mmsparse calibrate ({error})") from error
            if differ:
                raise ValueError(
                    f"Argument `out`: {path} has figures of another run ({', '.join(differ)} differ). Name another "
                    "folder, or remove it"
                )
            self.dense, self.base = found["dense"], found["base"]
            self.groups = list(map(Group.read, found["groups"]))

    def begin(self, dense: dict[str, Any], base: dict[str, float]) -> None:
        self.dense, self.base = dense, base
        self._write()

    def add(self, group: Group) -> None:
        self.groups.append(group)
        self._write()

    def _write(self) -> None:
        groups = list(map(asdict, self.groups))
        write_json(self.path, dict(setup=self.setup, dense=self.dense, base=self.base, groups=groups))


def write_json(path: Path, content: Any) -> None:
    write_whole(json.dumps(content, indent=1) + "\n", path)


def reach(
    bench: Bench, groups: Sequence[Group], kind: str | None, limit: float, dense: float | None
) -> Iterator[dict[str, Any]]:
    """What was tried: the ratios, what they should cost and lose, and what they cost, as shares of the dense network.

    Without a ``kind`` there is one try, of the ratios that pay.
    """
    asked = limit
    for _ in range(ATTEMPTS):
        if kind is None:
            ratios, lost, even = what_pays(groups), None, levelled(groups)
            saved = sum(group.whole.time - group.at[0].time for group in even if group.pays())
            predicted = nothing_routed(even, "time", None).cost - saved
        else:
            try:
                found = solve(groups, asked, kind, dense)
            except OutOfReachError:
                if asked == limit:
                    raise
                return  # what was tried before is as near as it gets
            ratios, predicted, lost = found.ratios, found.cost, found.loss
        tried = dict(taken(bench, ratios, kind), predicted=predicted, predicted_loss=lost)
        yield tried
        reached = tried["reached"]
        if kind is None or abs(reached - limit) <= CLOSE * limit:
            return
        asked -= reached - limit


def take_validation_set(cfg: Config, count: int, folder: Path) -> None:
    """Let the config's test set be so many pictures from all over its validation set; COCO's labels become fewer."""
    if cfg.get("val_dataloader") is not None and cfg.get("val_evaluator") is not None:
        cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    dataset = read_test_set(cfg)
    if count >= len(dataset):
        return
    chosen = [number * len(dataset) // count for number in range(count)]
    cfg.test_dataloader.dataset.indices = chosen
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, Sequence) else [cfg.test_evaluator]
    ids = {dataset.get_data_info(number).get("img_id") for number in chosen}
    for evaluator in evaluators:
        if evaluator.get("ann_file"):
            page = json.loads(Path(evaluator.ann_file).read_text())
            page["images"] = [image for image in page["images"] if image["id"] in ids]
            page["annotations"] = [label for label in page["annotations"] if label["image_id"] in ids]
            folder.mkdir(parents=True, exist_ok=True)
            evaluator.ann_file = str(folder / "pictures.json")
            (folder / "pictures.json").write_text(json.dumps(page))


def taken(bench: Bench, ratios: Ratios, kind: str | None) -> dict[str, Any]:
    """What ratios cost, as shares of the dense network; its arithmetic is ``reached`` if that is the target's kind."""
    macs = bench.macs(ratios) / bench.macs({})
    if kind == "macs":
        return dict(ratios=dict(ratios), macs=macs, reached=macs)
    dense, row = bench.time_surely(ratios)
    share, error = share_of(row, dense)
    return dict(ratios=dict(ratios), macs=macs, reached=share, error=error, ms=row.ms, dense_ms=dense.ms)


class Evaluator:
    """The first of a config's metrics on its test set, of a model at several budgets."""

    def __init__(self, cfg: Config, built: Built) -> None:
        with quiet():
            self._runner = build_runner(cfg, built)
        self.name = ""
        self._known: dict[frozenset, float] = {}

    def __call__(self, ratios: Ratios) -> float:
        same = frozenset((place, ratio) for place, ratio in ratios.items() if ratio < 1.0)
        if same not in self._known:
            self._known[same] = self._evaluated(ratios)
        return self._known[same]

    def _evaluated(self, ratios: Ratios) -> float:
        with budgets(dials_at(self._runner.model, ratios)), quiet():
            found = self._runner.test()
        first = not self.name
        self.name = self.name or next((name for name in METRICS if name in found), "")
        if not self.name or (first and not found[self.name] > 0):
            raise ValueError(
                f"Argument `checkpoint`: the network finds nothing in the validation set, or its evaluator gives none "
                f"of {METRICS}. Train it first, or let arithmetic stand for the metric: --no-metric"
            )
        return float(found[self.name])


def part_configs(cfg: Config, model: nn.Module) -> dict[str, Any]:
    """What a config says of each dynamic part, where its keep ratios are; an encoder's are at what holds it."""
    found = {}
    for part in find_routers(model):
        nodes: list[Any] = [cfg.model]
        for name in part.split(".") if part else ():
            nodes.append(nodes[-1].get(name) if isinstance(nodes[-1], Mapping) else None)
        holders = nodes[-2:] if part.rpartition(".")[2] == "encoder" else nodes[-1:]
        given = (h for h in reversed(holders) if isinstance(h, Mapping) and isinstance(h.get("sparsity"), Mapping))
        if (node := next(given, None)) is None:
            raise ValueError(
                f"Argument `config`: {part or 'the model'} has keep ratios, but no `sparsity` in the config to write "
                "them to. Calibrate networks whose dynamic parts are mmsparse's backbones, necks and heads"
            )
        found[part] = node
    return found


def write_ratios(cfg: Config, model: nn.Module, ratios: Ratios) -> None:
    """Put them into the config and the model."""
    configs = part_configs(cfg, model)
    for dial, ratio in dials_at(model, ratios).items():
        dial.keep_ratio = round(ratio, DIGITS)
    written: dict[int, list[float]] = {}  # of each config: what of a part goes before the part itself
    for part, router in find_routers(model).items():
        ratios = written.setdefault(id(configs[part]), [])
        ratios += router.keep_ratio
        configs[part].sparsity.keep_ratio = list(ratios)


def say_groups(groups: Sequence[Group], ratios: Ratios, metric: str) -> str:
    """What each group was measured to cost and reach, a row a ratio, and what became of it."""
    lines = [f"{'place':<34}{'at':>6}{'time':>16}{metric or 'MACs':>16}  chosen"]
    for group in groups:
        chosen, why = ratios[group.places[0]], "" if group.pays() else ", routing does not pay here"
        label = group.places[0] + (f" and {len(group.places) - 1} more" if len(group.places) > 1 else "")
        end = f"{chosen:g}" if chosen < 1.0 else f"whole{why}"
        for each in (*group.at, *[group.whole] * (group.base < 1.0)):
            time = "" if each.time is None else f"{each.time:.3f}±{each.error:.3f}"
            value = each.macs if each.metric is None else each.metric
            lines.append(f"{label:<34}{each.keep_ratio:>6g}{time:>16}{value:>16.3f}  {end}".rstrip())
            label, end = "", ""
    return "\n".join(lines)


def say_reached(dense: Mapping[str, Any], chosen: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """What the chosen ratios should cost and reach, and do, beside the dense network and the config's own ratios."""
    lost, name = chosen["predicted_loss"], dense["name"]
    rows = {"dense": ["1.000", "", f"{dense['ms']:.1f}", "100.0%"]}
    for row, found in (("calibrated", chosen), ("as configured", own)):
        predicted = f"{found['predicted']:.3f}" if "predicted" in found else ""
        ms = f"{found['ms']:.1f}" if "ms" in found else ""
        rows[row] = [f"{found['reached']:.3f}", predicted, ms, f"{100 * found['macs']:.1f}%"]
    heads = ["of dense", "predicted", "ms", "MACs left"]
    if name:
        heads += [name, "predicted"]
        for row, found in zip(rows.values(), (dense, chosen, own), strict=True):
            row += [f"{found['metric']:.4f}", ""]
        if lost is not None:
            rows["calibrated"][-1] = f"{dense['metric'] * (1.0 - lost):.4f}"
    widths = [max(11, len(head) + 2) for head in heads]
    table = "\n".join(
        f"{first:<16}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for first, cells in [("", heads), *rows.items()]
    )
    if better(own, chosen):
        table += "\nThe config's own ratios are better: they take no more and find no less. They are kept."
    return table


def better(own: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    """Whether ratios take no more and find no less than others."""
    if own["ratios"] == chosen["ratios"] or own.get("metric") is None:
        return False
    return own["metric"] >= chosen["metric"] and own["reached"] <= chosen["reached"]
