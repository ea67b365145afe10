"""Every command of README and pages, run as it stands there but for names in the place of a user's own.

``make walk``. What needs data that is not here, minutes of measuring or a machine of another kind is named below.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from scenes import ROOT
from test_docs import DOCS, said

import mmsparse

pytestmark = pytest.mark.slow
CONFIG, CHECKPOINT = mmsparse.published("atss_dynamic-convnext-pico-w128_whole-m40_in-place_boards")
DENSE_CONFIG, DENSE_CHECKPOINT = mmsparse.published("atss_convnext-pico-w128_boards")
PICTURES = "data/boards/val/images"
NAMES = {
    **dict(CONFIG=CONFIG, CHECKPOINT=CHECKPOINT, DENSE_CONFIG=DENSE_CONFIG, DENSE_CHECKPOINT=DENSE_CHECKPOINT),
    **{"my_config.py": CONFIG, "dense.pth": DENSE_CHECKPOINT, "NAME": "routed"},
    **dict.fromkeys(["pictures", "pictures/", "PICTURES", "boards/val/images"], PICTURES),
}
# In place of full lengths.
SHORTER = {
    "train": "--cfg-options train_cfg.max_iters=1 train_cfg.val_interval=1 train_dataloader.batch_size=2 max_iters=1",
    "test": "--macs-pictures 1",
    "choice": "--num-images 2",
    "calibrate": "--num-images 2 --rounds 1 --warmup 1 --ratios 0.15 0.5",
    "benchmark": "--rounds 1 --warmup 1",
    "sparsify": "--overwrite",
    "boards": "--images 4 --val 2 --overwrite",
    "scenes": "--images 4 --val 2 --overwrite",
}
ELSEWHERE = {
    "data that is not here": r"timm\.pth|released\.pth|PCBData|CamVid|BCCD|camvid|deeppcb",
    "a trained study": r"work_dirs/",
    "minutes of measuring": r"(benchmark|calibrate|benchmark\.py) \S*configs/dynamic_|(benchmark|calibrate) configs/",
    "more boards": r"data/other",
    "another machine": r"^srun|-p my_package",
    "tried by other tests": r"^(make|pip) |mmsparse app|--resume$|supports --support|misc/study\.py|publish ",
}


def commands() -> dict[str, str]:
    """Each command once, by the first page that has it."""
    found: dict[str, str] = {}
    for page in [ROOT / "README.md", *sorted(DOCS.glob("*.md")), ROOT / "configs/published/README.md"]:
        for words in said(page):
            line = " ".join(words)
            if not any(re.search(where, line) for where in ELSEWHERE.values()):
                found.setdefault(line, page.stem)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a user works: with boards."""
    folder = tmp_path_factory.mktemp("walk")
    run(folder, "mmsparse boards data/boards --images 4 --val 2 --size 1024 --seed 0")
    return folder


def run(folder: Path, line: str) -> str:
    words = shlex.split(line)
    tools = {"mmsparse": [sys.executable, "-m", "mmsparse"], "python": [sys.executable]}
    done = subprocess.run([*tools[words[0]], *words[1:]], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.mark.parametrize("line, page", commands().items(), ids=lambda text: text[:60])
def test_a_command_does_what_it_says(line, page, folder):
    words = [NAMES.get(word, word) for word in line.split()]
    name = words[words.index("mmsparse") + 1] if "mmsparse" in words else ""
    if name == "sparsify":
        words = [f"{page}.py" if word == CONFIG else word for word in words]
    if "--runtime" in words and name != "calibrate":
        run(folder, f"mmsparse export {CONFIG} {CHECKPOINT} --to openvino --size 1024 1024")
        if name == "test" and "--cfg-options" not in words:
            words += ["--cfg-options", "test_dataloader.batch_size=1"]  # as it was exported
    if name in ("predict", "calibrate") and "--out" not in words:
        words += ["--out", str(folder / "out" / str(len(list(folder.glob("out/*")))))]  # each is somebody's first
    words = [f"{ROOT}/{word}" if word.startswith("tools/") else word for word in words]
    if name in ("boards", "scenes"):
        words[2] = f"new/{name}"
    run(folder, f"{shlex.join(words)} {SHORTER.get(name, '')}")
