"""What pages show of files and code: Markdown that takes the place of ``MARK`` when they are built, kept nowhere."""

import argparse
import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

import mmsparse
from mmsparse.cli.main import FOLDER, command_parser
from mmsparse.deploy.rivals import Results, table
from mmsparse.registry import MODELS

ROOT = Path(__file__).parents[1]
MARK = "<!-- docs/generate.py -->"
COMMANDS = sorted(path.stem.replace("_", "-") for path in FOLDER.glob("[!_]*.py"))
UNKNOWN = "not in the file"


def rows(head: Sequence[str], cells: Iterable[Sequence[Any]], numbers: int = 0) -> str:
    """A table whose last columns are numbers."""
    rule = [":--"] * (len(head) - numbers) + ["--:"] * numbers
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in (head, rule, *cells))


def fenced(text: str, language: str = "text") -> str:
    return f"```{language}\n{text}\n```"


# model_zoo.md


def model_zoo() -> str:
    files = yaml.safe_load((ROOT / "model-index.yml").read_text())["Import"]
    return "\n\n".join(
        collection(found, [model for model in content["Models"] if model["In Collection"] == found["Name"]])
        for content in (yaml.safe_load((ROOT / name).read_text()) for name in files)
        for found in content["Collections"]
    )


def collection(found: dict[str, Any], models: Sequence[dict[str, Any]]) -> str:
    paper = f" Paper: [{found['Paper']['Title']}]({found['Paper']['URL']})." if "Paper" in found else ""
    cells = ((f"[{model['Name']}](../{model['Config']})", *facts(model)) for model in models)
    head = ("config", "data", "training", "keep ratio", "weights", "results")
    return f"## {found['Name']}\n\n[What they are](../{found['README']}).{paper}\n\n{rows(head, cells)}"


def facts(model: dict[str, Any]) -> tuple[str, ...]:
    data = model["Metadata"]
    length = f"{data['Epochs']} epochs" if "Epochs" in data else f"{data['Iterations']} iterations"
    keep = data.get("Keep Ratio", "dense")
    weights = (
        f"[{Path(found).name}](../configs/{found.rpartition('::')[2]})" if (found := model.get("Weights")) else "none"
    )
    results = "; ".join(
        f"{name} {value}" for result in model.get("Results", ()) for name, value in result["Metrics"].items()
    )
    return data["Training Data"], f"{length}, batch {data['Batch Size']}", str(keep), weights, results or "not measured"


# benchmarks.md


def benchmarks() -> str:
    timed = [runtimes(path) for path in sorted((ROOT / "docs/results").glob("*.json"))]
    studies = sorted((ROOT / "docs/studies").glob("*.json"))
    trained = [study_times(path) if path.stem.endswith("_times") else study(path) for path in studies]
    return "\n\n".join(["## Runtimes", *timed, "## Trained networks", *trained])


def titled(path: Path) -> str:
    return f"### {path.stem}\n\n[`{path.name}`]({path.relative_to(ROOT / 'docs').as_posix()})"


def runtimes(path: Path) -> str:
    """Of ``mmsparse benchmark --rivals``: its own table for each part, batch and number of threads."""
    results = Results.read(path)
    setup, tables = results.setup, []
    for kind, found in groupby(results.rows, key=lambda row: (row.part, row.batch, row.threads)):
        said = "{}, batch {}, {} threads".format(*kind)
        tables.append(f"{said}, median of {setup['rounds']} rounds after {setup['warmup']}:\n\n{table(list(found))}")
    versions = ", ".join(f"{name} {version}" for name, version in setup["versions"].items())
    keeps = ", ".join(f"`{place}` {ratio}" for place, ratio in setup["budgets"].items())
    said = f"{setup['machine']}; {versions}; weights: {setup['checkpoint'] or 'initial'}.\n\nKeep ratios: {keeps}."
    return "\n\n".join([titled(path), fenced(command_of(results), "shell"), said, *tables])


def command_of(results: Results) -> str:
    """What writes such a file, in a clone."""
    setup, found = results.setup, results.rows
    words = ["mmsparse benchmark", config_of(setup["config"])]
    if setup["checkpoint"]:
        words.append(f"--checkpoint {setup['checkpoint']}")
    for name, values in (("batch-sizes", [row.batch for row in found]), ("threads", [row.threads for row in found])):
        words.append(f"--{name} {spaced(dict.fromkeys(values))}")
    words += [f"--shape {spaced(setup['shape'])}", f"--rounds {setup['rounds']} --warmup {setup['warmup']}"]
    words += [f"--parts {spaced(dict.fromkeys(row.part for row in found))}", f"--forms {spaced(setup['forms'])}"]
    words.append(spaced(["--rivals", *map(config_of, setup["rivals"])]))
    options = (f"{key}={json.dumps(value, separators=(',', ':'))}" for key, value in setup["options"].items())
    if setup["options"]:
        words.append(spaced(["--cfg-options", *map(shlex.quote, options)]))
    return " \\\n    ".join(words)


def config_of(name: str) -> str:
    (path,) = (ROOT / "configs").glob(f"*/{name}")
    return path.relative_to(ROOT).as_posix()


def spaced(values: Iterable[Any]) -> str:
    return " ".join(map(str, values))


def study(path: Path) -> str:
    """Of ``tools/misc/study.py``: what came out, by network and budget."""
    page = json.loads(path.read_text())
    found = [(name, at, result) for name, budgets in page.items() for at, result in budgets.items()]
    metrics = [key for key in found[0][2] if key not in ("macs", "shape", "keep_ratio")]
    cells = []
    for name, at, result in found:
        size, gmacs = "x".join(map(str, result["shape"])), f"{result['macs'] / 1e9:.3f}"
        cells.append((name, at, size, gmacs, *(f"{result[metric]:.4g}" for metric in metrics)))
    shown = rows(("network", "budget", "size", "GMACs", *metrics), cells, 2 + len(metrics))
    command = fenced(f"python tools/misc/study.py configs/study/{path.stem}.py", "shell")
    return "\n\n".join([titled(path), command, f"Machine and versions: {UNKNOWN}.", shown])


def study_times(path: Path) -> str:
    """Of ``tools/misc/study.py --time``: milliseconds of the same networks."""
    results = Results.read(path)
    threads, rounds = results.setup["threads"], results.setup["rounds"]
    forms = list(dict.fromkeys(row.form for row in results.rows))
    ms = {(row.network, row.form): f"{row.ms:.1f}" if row.times else "no" for row in results.rows}
    networks = dict.fromkeys((row.network, row.shape, row.macs) for row in results.rows)
    cells = [
        (name, shape, f"{macs / 1e9:.3f}", *(ms.get((name, form), "") for form in forms))
        for name, shape, macs in networks
    ]
    shown = rows(("network@budget", "size", "GMACs", *(f"{form}, ms" for form in forms)), cells, 2 + len(forms))
    config, _, which = results.setup["study"].partition(", ")
    asked = spaced(form.removesuffix(" f32").replace(" ", "-") for form in forms)
    command = f"python tools/misc/study.py {config} --time {asked} --rounds {rounds} --threads {threads}"
    said = f"Batch 1, {threads} threads, median of {rounds} rounds{which and f', {which}'}. "
    return "\n\n".join([titled(path), fenced(command, "shell"), f"{said}Machine and versions: {UNKNOWN}.", shown])


# reliability.md


def reliability() -> tuple[str, ...]:
    """What each mark of the page stands for."""
    return load(), peaks(), versions(), mistakes()


def soaked() -> dict[str, Any]:
    return json.loads((ROOT / "docs/soak.json").read_text())


def load() -> str:
    """Requests of many clients at once."""
    head = ("", "requests", "clients", "differing", "p50 / p95 / p99, ms", "a second", "in use, MB", "resident, MB")
    cells = [
        (name, found["requests"], found.get("clients", "all at once"), found["differing"],
         " / ".join(str(found[f"p{share}_ms"]) for share in (50, 95, 99)) if "p50_ms" in found else "",
         found["per_second"], f"{found['used_grew_mb']:+.1f}", f"{found['resident_grew_mb']:+.1f}")
        for name, found in soaked().items() if "per_second" in found
    ]  # fmt: skip
    return rows(head, cells, 7)


def peaks() -> str:
    """Of memory, beside the dense network's."""
    head = ("", "dense, MB", "routed, MB", "ratio")
    found = [(name, figures) for name, figures in soaked().items() if "dense_mb" in figures]
    return rows(
        head, ((n, f["dense_mb"], f["routed_mb"], f"{f['routed_mb'] / f['dense_mb']:.2f}") for n, f in found), 3
    )


def versions() -> str:
    head = ("Python", "packages", "torch", "tests of", "passed", "failed")
    found = json.loads((ROOT / "docs/versions.json").read_text()).values()
    cells = (
        (f["python"], f["stack"], f["torch"], spaced(f["tests"]), f["counts"].get("passed", 0), len(f["failed"]))
        for f in found
    )
    return rows(head, cells, 2)


def mistakes() -> str:
    groups = json.loads((ROOT / "tests/bad_input.json").read_text())
    head = ("mmsparse ...", "says", "where")  # the last one not of every group
    return "\n\n".join(
        f"### {group}\n\n"
        + rows(head[: len(cases[0])], ((code(c), code(f"... {told} ..."), *where) for c, told, *where in cases))
        for group, cases in groups.items()
    )


def code(text: str) -> str:
    """In a table's cell, with backticks in it."""
    return f"`` {text} ``".replace("|", "\\|")


# cli.md


def cli() -> str:
    return "\n\n".join(f"## {name}\n\n{fenced(help_of(name))}" for name in COMMANDS)


def help_of(name: str) -> str:
    parser = command_parser(name)
    parser.formatter_class = partial(argparse.HelpFormatter, width=100)
    return parser.format_help().strip()


# api.md


def api() -> str:
    names = {"Functions": [f"mmsparse.{name}" for name in mmsparse.__all__ if name != "__version__"]}
    MODELS.import_from_location()
    for cls in MODELS.module_dict.values():  # what of them is in mmsparse.sparsity follows below
        if cls.__module__.startswith("mmsparse.models."):
            names.setdefault(cls.__module__.split(".")[2].capitalize(), []).append(f"{cls.__module__}.{cls.__name__}")
    for room in ("engine", "sparsity", "deploy"):
        names[f"mmsparse.{room}"] = [f"mmsparse.{room}.{name}" for name in import_module(f"mmsparse.{room}").__all__]
    return "\n\n".join(f"## {title}\n\n{directives(found)}" for title, found in names.items())


def directives(names: Iterable[str]) -> str:
    lines = []
    for name in names:
        home, _, own = name.rpartition(".")
        thing = getattr(import_module(home), own)
        if isinstance(thing, type):
            lines += [f".. autoclass:: {name}", "   :members:"]
        elif callable(thing):
            lines.append(f".. autofunction:: {name}")
        else:  # names to choose from
            lines += [f".. py:data:: {name}", "", f"   {', '.join(f'``{choice}``' for choice in thing)}"]
        lines.append("")
    return f"```{{eval-rst}}\n{chr(10).join(lines)}```"


PAGES: dict[str, Callable[[], str | tuple[str, ...]]] = {
    f"docs/{make.__name__}": make for make in (model_zoo, benchmarks, reliability, cli, api)
}
