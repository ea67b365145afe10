"""What pages show of files and code is in them, and all of them become a site."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import mmsparse
from mmsparse import deploy, engine, sparsity
from mmsparse.cli.main import FOLDER, command_parser
from mmsparse.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

REGISTRIES = (MODELS, HOOKS, OPTIM_WRAPPERS, OPTIM_WRAPPER_CONSTRUCTORS)
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SPEC = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
generate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(generate)


def tables_of(text: str) -> list[list[list[str]]]:
    """Cells below the rule."""
    found = re.findall(r"^\|[: |-]+\|\n((?:\|.*(?:\n|$))+)", text, re.M)
    return [[[cell.strip() for cell in line.strip("|").split(" | ")] for line in body.splitlines()] for body in found]


def test_every_page_is_in_the_table_of_contents():
    listed = re.findall(
        r"^(\w+)$", "".join(re.findall(r"```{toctree}(.*?)```", (DOCS / "index.md").read_text(), re.S)), re.M
    )
    assert sorted([*listed, "index"]) == sorted(path.stem for path in DOCS.glob("*.md"))


def test_every_generated_page_says_where():
    marked = {f"docs/{path.stem}" for path in DOCS.glob("*.md") if path.read_text().count(generate.MARK)}
    assert marked == generate.PAGES.keys()


def test_the_zoo_has_every_config_and_no_result_of_its_own():
    files = [yaml.safe_load(path.read_text()) for path in ROOT.glob("configs/*/metafile.yml")]
    models = {model["Config"]: model for content in files for model in content["Models"]}
    rows = [row for table in tables_of(generate.model_zoo()) for row in table]
    assert len(rows) == len(models)
    for config, data, training, keep, weights, results in rows:
        model = models[re.search(r"\(\.\./(.*)\)", config)[1]]
        facts = model["Metadata"]
        assert data == facts["Training Data"] and f"{facts.get('Epochs') or facts['Iterations']} " in training
        assert keep == str(facts.get("Keep Ratio", "dense"))
        assert (results == "not measured") == ("Results" not in model)
        assert (weights == "none") == ("Weights" not in model)


def test_what_mistakes_say_is_told():
    cases = json.loads((ROOT / "tests/bad_input.json").read_text())
    tables = tables_of(generate.mistakes())
    assert [len(table) for table in tables] == [len(group) for group in cases.values()]
    command, told = next(iter(cases.values()))[0]
    assert tables[0][0] == [f"`` {command} ``", f"`` ... {told} ... ``"]


def test_results_of_a_metafile_are_told():
    model = dict(Metadata={"Training Data": "COCO", "Epochs": 36, "Batch Size": 16, "Keep Ratio": 0.7})
    model["Results"] = [dict(Task="Object Detection", Metrics={"box AP": 1.5, "AP50": 2.5})]
    assert generate.facts(model) == ("COCO", "36 epochs, batch 16", "0.7", "none", "box AP 1.5; AP50 2.5")
    model["Weights"] = "mmsparse::boards/net.pth"
    assert generate.facts(model)[3] == "[net.pth](../configs/boards/net.pth)"


@pytest.mark.parametrize("path", sorted((DOCS / "results").iterdir()), ids=lambda path: path.stem)
def test_the_command_told_makes_such_a_file(path):
    page = json.loads(path.read_text())
    setup, shown = page["setup"], generate.runtimes(path)
    words = shlex.split(re.search(r"```shell\n(.*?)```", shown, re.S)[1].replace("\\\n", ""))
    args = command_parser("benchmark").parse_args(words[2:])
    assert words[:2] == ["mmsparse", "benchmark"] and (ROOT / args.config).exists()
    asked = [Path(args.config).name, args.shape, args.rounds, args.warmup, args.forms, args.checkpoint]
    asked.append([Path(rival).name for rival in args.rivals])
    keys = ("config", "shape", "rounds", "warmup", "forms", "checkpoint", "rivals")
    assert asked == [setup[key] for key in keys]
    assert dict(args.cfg_options or {}) == setup["options"]
    assert {
        (part, batch, threads) for part in args.parts for batch in args.batch_sizes for threads in args.threads
    } == {(row["part"], row["batch"], row["threads"]) for row in page["rows"]}
    for told in (setup["machine"], *setup["versions"].values()):
        assert told in shown


@pytest.mark.parametrize("path", sorted((DOCS / "studies").iterdir()), ids=lambda path: path.stem)
def test_studies_are_told_as_they_came_out(path):
    page = json.loads(path.read_text())
    shown = generate.study_times(path) if "rows" in page else generate.study(path)
    (table,) = tables_of(shown)
    if "rows" in page:
        forms = list(dict.fromkeys(row["form"] for row in page["rows"]))
        told = {(row[0], form): cell for row in table for form, cell in zip(forms, row[3:], strict=True)}
        medians = {
            (row["network"], row["form"]): sorted(row["times"])[len(row["times"]) // 2 :][:1] for row in page["rows"]
        }
        assert told == {key: f"{median[0]:.1f}" if median else "no" for key, median in medians.items()}
    else:
        told = {(name, at): (float(cells[1]), float(cells[2])) for name, at, *cells in table}
        results = {(name, at): found for name, budgets in page.items() for at, found in budgets.items()}
        metric = next(key for key in ("coco/bbox_mAP", "mIoU") if key in next(iter(results.values())))
        assert told.keys() == results.keys()
        for key, (macs, value) in told.items():
            assert (macs, value) == pytest.approx(
                (results[key]["macs"] / 1e9, results[key][metric]), rel=1e-3, abs=5e-4
            )
    (config,) = re.findall(r"configs/study/\S+", shown)
    assert (ROOT / config).exists()


def test_help_of_every_command_is_told():
    shown = generate.cli()
    assert re.findall(r"^## (.*)$", shown, re.M) == sorted(
        path.stem.replace("_", "-") for path in FOLDER.glob("[!_]*.py")
    )
    assert "usage: mmsparse train" in shown and "--keep-ratio KEEP_RATIO [KEEP_RATIO ...]" in shown


def test_every_public_name_is_in_the_reference():
    told = re.findall(r"^\.\. [\w:]+:: (\S+)$", generate.api(), re.M)
    assert len(set(told)) == len(told)
    classes = {name: cls for registry in REGISTRIES for name, cls in registry.module_dict.items()}
    registered = [name for name, cls in classes.items() if cls.__module__.startswith("mmsparse.")]
    public = [name for room in (mmsparse, sparsity, engine, deploy) for name in room.__all__ if name != "__version__"]
    assert {name.rpartition(".")[2] for name in told} == {*registered, *public}


@pytest.mark.skipif(not (ROOT / ".docs/sphinx").is_dir(), reason="Sphinx is not in .docs, where `make docs` puts it")
def test_the_site_is_built_without_a_warning(tmp_path):
    options = ["--conf-dir=docs", "--fail-on-warning", "--keep-going", "--quiet", f"--doctree-dir={tmp_path / 'trees'}"]
    command = [sys.executable, "-m", "sphinx", *options, ".", tmp_path / "site"]
    paths = os.pathsep.join([str(ROOT / ".docs"), str(ROOT)])
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/docs/benchmarks.html").read_text()
    assert "617 (1.88x)" in page and generate.MARK not in page
    assert 'id="mmsparse.sparsity.TopKSelector"' in (tmp_path / "site/docs/api.html").read_text()
    assert "url=docs/index.html" in (tmp_path / "site/index.html").read_text()
