"""Configs and checkpoints of version 0.1 go on working; tests/golden/v0_1 has them, and the numbers that 0.1 gave."""

import json
import lzma
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from frozen import SIZES, digest, metainfo, pictures, tensors
from scenes import at

from mmsparse.apis import find_deciders
from mmsparse.cli.building import build_model
from mmsparse.cli.main import main
from mmsparse.configs import read_config
from mmsparse.sparsity import LocalGlobalScorer

FOLDER = Path(__file__).parent / "golden/v0_1"
NAMES = ("detector", "segmenter")
EXACT = 1e-9  # of the largest number of each output, in double precision
LOSS = 1e-6  # relative: boxes are taught in single precision, by which each CPU rounds otherwise

pytestmark = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@cache
def numbers() -> dict[str, Any]:
    return json.loads((FOLDER / "numbers.json").read_text())


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v0_1")
    for name in NAMES:
        (folder / f"{name}.pth").write_bytes(lzma.decompress((FOLDER / f"{name}.pth.xz").read_bytes()))
    return folder


def config(name: str) -> str:
    return str(FOLDER / f"{name}.py")


def place(data: Path, name: str, work: Path) -> list[str]:
    """Options as make.py gives them: a detector is evaluated on the pictures it was trained on."""
    names = ("visualizer.name", "experiment_name")  # or they would be of an earlier test in the same second
    pairs = {**at(data), **dict.fromkeys(names, work.name)}
    if name == "detector":
        for split in ("val", "test"):
            pairs[f"{split}_dataloader.dataset.ann_file"] = "annotations/train.json"
            pairs[f"{split}_dataloader.dataset.data_prefix.img"] = "train/images/"
            pairs[f"{split}_evaluator.ann_file"] = f"{data}/annotations/train.json"
    return ["--cfg-options", *(f"{key}={value}" for key, value in pairs.items())]


def test_outputs_are_those_of_0_1(name: str, checkpoints: Path):
    model = build_model(read_config(config(name)), str(checkpoints / f"{name}.pth")).double()
    assert {type(decider.scorer) for decider in find_deciders(model)} == {LocalGlobalScorer}  # the defaults of 0.1
    samples = [SimpleNamespace(metainfo=metainfo(size), **metainfo(size)) for size in SIZES]
    with torch.no_grad():
        outputs = model(pictures(), samples, mode="tensor")
    found = {f"{part} {tuple(x.shape)}".strip(): digest(x) for part, x in tensors(outputs)}
    before = {part: np.array(text.split(), dtype=float) for part, text in numbers()[name]["outputs"].items()}
    assert found.keys() == before.keys()
    for part, expected in before.items():
        assert np.abs(found[part] - expected).max() <= EXACT * np.abs(expected).max(), part


def test_an_evaluation_gives_the_metrics_of_0_1(name: str, checkpoints: Path, scenes: Path, tmp_path: Path, capsys):
    line = ["test", config(name), str(checkpoints / f"{name}.pth"), "--json", "--macs-pictures", "0"]
    assert main([*line, "--work-dir", str(tmp_path), *place(scenes, name, tmp_path)]) == 0
    metrics = json.loads(capsys.readouterr().out.splitlines()[-1])["metrics"]
    assert metrics == pytest.approx(numbers()[name]["metrics"], abs=1e-9)  # which are rounded


def test_a_training_that_stopped_under_0_1_goes_on(name: str, checkpoints: Path, scenes: Path, tmp_path: Path, double):
    line = ["train", config(name), "--no-validate", "--resume", str(checkpoints / f"{name}.pth")]
    assert main([*line, "--work-dir", str(tmp_path), *place(scenes, name, tmp_path)]) == 0
    (log,) = tmp_path.glob("*/vis_data/scalars.json")
    steps = {str(step["step"]): step for step in map(json.loads, log.read_text().splitlines())}
    expected = numbers()[name]["resumed"]
    assert steps.keys() == expected.keys()
    for step, before in expected.items():
        assert {key: steps[step][key] for key in before} == pytest.approx(before, rel=LOSS), step
