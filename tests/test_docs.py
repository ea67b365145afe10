"""Every contract page's example runs as it stands there."""

import re
from pathlib import Path

import pytest

from mmsparse.deploy.rivals import Results, table
from mmsparse.ops import OPERATORS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("add_*.md"))


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


ROWS = {  # of the README, by their results
    "UPerNet, ConvNeXt-T, 512x512": "upernet",
    "RetinaNet, ConvNeXt-T, 800x1344": "retinanet",
    "Mask R-CNN, Swin-T, 800x1344, to its proposals": "mask-rcnn",
    "a small RetinaNet (64 channels) at 0.15, 640x640": "small",
}


@pytest.mark.parametrize("head, name", ROWS.items(), ids=ROWS.values())
def test_the_readme_tells_the_results(head, name):
    rows = [row for row in Results.read(DOCS / "results" / f"{name}.json").rows if row.form == "openvino f32"]
    dense, routed, smaller = rows[:3]
    narrow = next((f"{row.speedup(dense):.2f}x" for row in rows if "-w75_" in row.network), "not measured")
    told = f"{dense.ms:.0f} | {routed.speedup(dense):.2f}x | {smaller.speedup(dense):.2f}x | {narrow}"
    line = f"| {head} | {told} | {dense.macs / routed.macs:.2f}x |"
    assert line in (DOCS.parent / "README.md").read_text().splitlines()


def test_tables_are_of_the_results_beside_them():
    """<!-- results/NAME.json PART BATCH THREADS --> and the table that follows."""
    page = (DOCS / "deploy.md").read_text()
    found = re.findall(r"<!-- (results/\S+\.json) (\w+) (\d+) (\d+) -->\n\n((?:\|.*\n)+)", page)
    assert {name for name, *_ in found} == {f"results/{path.name}" for path in (DOCS / "results").iterdir()}
    for name, part, batch, threads, told in found:
        assert told.strip() == table(Results.read(DOCS / name).of(part, int(batch), int(threads)))
