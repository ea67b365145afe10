"""The notebook runs from its first cell to its last."""

import json

import matplotlib
import pytest
from scenes import ROOT

SIZES = 'ITERATIONS, BOARDS, SIZE, RUNTIMES = 200, 60, 512, ["eager", "openvino"]'


@pytest.mark.parametrize("runtimes", [["eager"], pytest.param(["eager", "openvino"], marks=pytest.mark.slow)], ids=str)
def test_the_tutorial_runs(runtimes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    cells = json.loads((ROOT / "docs/tutorial.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sum(SIZES in cell for cell in code) == 1
    small = f"ITERATIONS, BOARDS, SIZE, RUNTIMES = 1, 4, 256, {runtimes}"
    left = {"__name__": "tutorial"}
    for number, cell in enumerate(code):
        exec(compile(cell.replace(SIZES, small), f"cell {number}", "exec"), left)
    gmacs = [count for count, _ in left["found"].values()]
    assert gmacs == sorted(set(gmacs)) and list(left["found"]) == [0.1, 0.25, 0.5, 1.0]
    assert 0.2 < left["share"].mean() < 0.4 and (tmp_path / "work_dirs/tutorial/looked.png").is_file()
    assert [(row.network, row.form) for row in left["rows"]] == [
        (network, f"{runtime} f32") for runtime in runtimes for network in ("dense", "routed", "smaller picture")
    ]
    assert all(row.times for row in left["rows"])
    assert list((tmp_path / "work_dirs/tutorial/openvino").glob("*.xml"))
