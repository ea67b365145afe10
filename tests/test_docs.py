"""Every contract page's example runs as it stands there, commands on all pages are ones that exist."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmsparse import compat, stock
from mmsparse.apis import find_routers
from mmsparse.cli.main import FOLDER, command_parser
from mmsparse.configs import without_pretrained
from mmsparse.deploy.rivals import Results, table
from mmsparse.ops import OPERATORS
from mmsparse.registry import MODELS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("add_*.md"))
EXTRAS = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def blocks_of(page: Path) -> list[str]:
    """Its fenced Python, each with as many lines before it as on the page, so that errors name the right one."""
    text, fence = page.read_text(), re.compile(r"^```python\n(.*?)^```", re.M | re.S)
    return ["\n" * text[: m.start(1)].count("\n") + m[1] for m in fence.finditer(text)]


@pytest.fixture(autouse=True)
def without_new_kernels(monkeypatch):
    """What a page registers is gone behind it."""
    for operator in OPERATORS.values():
        monkeypatch.setattr(operator, "kernels", list(operator.kernels))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_example(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert blocks_of(page)
    run(page)


def run(page: Path) -> dict[str, object]:
    """All blocks of a page, one behind the other; what they leave."""
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks_of(page):
        exec(compile(block, str(page), "exec"), namespace)
    return namespace


def test_blocks_keep_their_lines(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One\n\n```python\na = 1\n```\n\n```bash\nfalse\n```\n\n```python\nb = a\n1 / 0\n```\n")
    first, second = blocks_of(page)
    assert first == "\n\n\na = 1\n" and second.lstrip() == "b = a\n1 / 0\n"
    assert second.splitlines()[12] == "1 / 0"


def test_a_back_ends_example_is_what_runs():
    operator = OPERATORS["attention_rows"]
    left = run(DOCS / "add_a_back_end.md")
    calls = left["query"], left["key_value"], 2, *[None] * 4, 4, 4
    assert operator._choose("cpu", calls) is operator.kernels[-1].run is left["attend"]


def test_the_first_configs_are_what_is_said_of_them(tmp_path):
    first, second = blocks_of(DOCS / "get_started.md")
    (tmp_path / "first.py").write_text(first)
    backbone = MODELS.build(Config.fromfile(tmp_path / "first.py").model.backbone)
    assert type(backbone).__name__ == "DynamicConvNeXt" and backbone.router.keep_ratio == pytest.approx((0.7, 0.5, 0.3))
    namespace: dict[str, dict] = {}
    exec(second, namespace)
    for part, told in namespace["model"].items():
        assert MODELS.get(told["type"]).__name__ == {"neck": "DynamicFPN", "bbox_head": "DynamicRetinaHead"}[part]


@pytest.mark.usefixtures("unfilled")
def test_whole_configs_route_what_is_said(tmp_path):
    compat.prepare()
    routed = {"backbone", "neck", "bbox_head"}, {"backbone", "decode_head"}, {"backbone"}
    for block, parts in zip(blocks_of(DOCS / "parts.md"), routed, strict=False):
        (tmp_path / "config.py").write_text(block)
        cfg = Config.fromfile(tmp_path / "config.py")
        without_pretrained(cfg.model)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = MODELS.build(cfg.model)
        assert find_routers(model).keys() == parts
        for word, known in re.findall(r'type="(mmsparse\.\w+)".*# was (?:\w+\.)?(\w+)', block):
            assert known in {cls.__name__ for cls in MODELS.get(word).__mro__}


ROWS = {  # of docs/speed.md, by their results
    "UPerNet, ConvNeXt-T, 512x512": "upernet",
    "RetinaNet, ConvNeXt-T, 800x1344": "retinanet",
    "Mask R-CNN, Swin-T, 800x1344, to its proposals": "mask-rcnn",
    "a small RetinaNet (64 channels) at 0.15, 640x640": "small",
}


@pytest.mark.parametrize("head, name", ROWS.items(), ids=ROWS.values())
def test_speeds_are_those_of_the_results(head, name):
    rows = [row for row in Results.read(DOCS / "results" / f"{name}.json").rows if row.form == "openvino f32"]
    dense, routed, smaller = rows[:3]
    narrow = next((f"{row.speedup(dense):.2f}x" for row in rows if "-w75_" in row.network), "not measured")
    told = f"{dense.ms:.0f} | {routed.speedup(dense):.2f}x | {smaller.speedup(dense):.2f}x | {narrow}"
    line = f"| {head} | {told} | {dense.macs / routed.macs:.2f}x |"
    assert line in (DOCS / "speed.md").read_text().splitlines()


def test_tables_are_of_the_results_beside_them():
    """<!-- results/NAME.json PART BATCH THREADS --> and the table that follows."""
    page = (DOCS / "deploy.md").read_text()
    found = re.findall(r"<!-- (results/\S+\.json) (\w+) (\d+) (\d+) -->\n\n((?:\|.*\n)+)", page)
    assert {name for name, *_ in found} == {f"results/{path.name}" for path in (DOCS / "results").iterdir()}
    for name, part, batch, threads, told in found:
        assert told.strip() == table(Results.read(DOCS / name).of(part, int(batch), int(threads)))


def shell_of(page: Path) -> str:
    """Its fenced shell, and of its indented lines those that are commands or name what commands say."""
    text = re.sub(r"\\\n", " ", page.read_text())  # one line a command
    fenced = re.findall(r"^```shell\n(.*?)^```", text, re.M | re.S)
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    indented = re.findall(r"^    ((?:mmsparse|python|make|pip|pytest) .*|[A-Z]+=.*)$", text, re.M)
    return "\n".join([*fenced, *indented])


def said(page: Path) -> list[list[str]]:
    """Words of each command, as the shell hands them over; nothing is run."""
    commands = {line.split()[0] for line in shell_of(page).splitlines() if line[:1].islower()}
    tell = "".join(f"{name}() {{ printf '%s\\x1f' {name} \"$@\"; echo; }}\n" for name in commands)
    script = f"PATH= \n{tell}{shell_of(page)}"
    told = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return [line.split("\x1f")[:-1] for line in told.stdout.splitlines()]


@pytest.mark.parametrize("page", [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.stem)
def test_commands_are_ones_that_exist(page):
    for name, *words in said(page):
        if name == "mmsparse":
            command_parser(words[0]).parse_args(words[1:])  # raises what the command would say
        elif name == "make":
            assert re.search(rf"^\.PHONY:.*\b{words[0]}\b", (DOCS.parent / "Makefile").read_text(), re.M), words
        elif name == "pip":
            assert set(re.findall(r"\[(\w+)\]", shlex.join(words))) <= EXTRAS.keys(), words
        elif name == "srun":
            at = words.index("mmsparse") + 1
            command_parser(words[at]).parse_args(words[at + 1 :])
        else:
            assert name in ("python", "pytest"), f"{name}: say here how it is checked"
        paths = [word for word in words if re.match(r"(configs|tests|tools|projects)/", word)]
        assert [path for path in paths if not (DOCS.parent / path).exists()] == []


def test_there_is_an_example_of_every_command():
    examples = {words[1] for words in said(DOCS / "cli.md")}
    assert examples == {path.stem.replace("_", "-") for path in FOLDER.glob("[!_]*.py")}


def test_commands_of_pages_are_understood(tmp_path):
    page = tmp_path / "page.md"
    indented = "    C=configs A='--x 1'\n    mmsparse flops $C/a.py \\\n        $A 'b c'\n"
    page.write_text(f"# One\n\n{indented}\n```shell\nmake docs  # so\n```\n")
    assert said(page) == [["make", "docs"], ["mmsparse", "flops", "configs/a.py", "--x", "1", "b c"]]


def test_the_readme_counts_what_is_routed():
    count = sum(len(names) for table in (stock.HEADS, stock.NECKS) for names in table.values())
    assert f" {count} necks and heads," in (DOCS.parent / "README.md").read_text()
