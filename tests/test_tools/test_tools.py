"""The tools as a user runs them: as commands, on a small data set."""

import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest
import torch
from commands import run_tool, run_tool_in_two, tool
from scenes import ROOT, options

DEMO = "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py"
SEGMENTER = "configs/demo/dynamic-convnext-atto_k50_fpn_scenes.py"


def losses(work_dir: Path) -> dict[int, float]:
    """Loss of each iteration, over all runs in a work dir, later ones last."""
    found = {}
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            if "loss" in entry:
                found[entry["step"]] = entry["loss"]
    return found


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("trained")
    tool("train", DEMO, "--work-dir", str(work_dir), *options(scenes))
    return work_dir


def test_training_logs_what_it_should(trained):
    lines = next(trained.glob("*/vis_data/scalars.json")).read_text().splitlines()
    entry = [entry for entry in map(json.loads, lines) if "loss" in entry][-1]
    assert [entry[f"keep_ratio/{place}"] for place in ("s0b0", "s1b0", "s1b2", "s2b0")] == [0.5] * 4  # exact counts
    assert entry["loss_sparsity"] == 0.0
    assert (trained / "iter_4.pth").is_file()


def test_resumed_run_has_the_same_losses(trained, scenes, tmp_path):
    """As if the first run had been stopped after its second iteration."""
    shutil.copy(trained / "iter_2.pth", tmp_path)
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_2.pth"))
    tool("train", DEMO, "--work-dir", str(tmp_path), "--resume", *options(scenes))
    straight, resumed = losses(trained), losses(tmp_path)
    assert straight.keys() == {1, 2, 3, 4} and resumed.keys() == {3, 4}
    for step in (3, 4):
        assert resumed[step] == pytest.approx(straight[step], abs=1e-5)


def test_keep_ratio_at_test_time_moves_the_macs(trained, scenes, tmp_path):
    executed = {}
    for ratio in ("0.25", "1.0"):
        _, out, text = run_tool("test", DEMO, trained / "iter_4.pth", "--work-dir", tmp_path, "--keep-ratio", ratio,
                                "--macs-pictures", "1", "--json", *options(scenes))  # fmt: skip
        row = re.search(r"backbone +([\d.]+) +([\d.]+)", text)
        executed[ratio] = [float(n) for n in row.groups()]
        found = json.loads(out)
        assert found["metrics"]["coco/bbox_mAP"] >= 0.0 and max(found["keep_ratio"].values()) == float(ratio)
        told = [round(found["macs"]["backbone"][kind] / 1e9, 3) for kind in ("dense", "executed")]
        assert told == executed[ratio]
    assert executed["1.0"][0] == executed["1.0"][1] == executed["0.25"][0]
    assert executed["0.25"][1] < 0.6 * executed["0.25"][0]


def test_dense_checkpoint_is_tested_and_another_models_refused(trained, scenes, tmp_path):
    state = torch.load(trained / "iter_4.pth", weights_only=False)["state_dict"]
    dense = {key: value for key, value in state.items() if "router" not in key}
    torch.save({"state_dict": dense}, tmp_path / "dense.pth")
    args = ["--work-dir", str(tmp_path), "--macs-pictures", "0", *options(scenes)]
    assert "bbox_mAP" in tool("test", DEMO, str(tmp_path / "dense.pth"), "--keep-ratio", "1", *args)
    torch.save({"state_dict": {"conv.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    text = tool("test", DEMO, str(tmp_path / "other.pth"), *args, ok=False)
    assert "Argument `checkpoint`" in text and "does not fit this model" in text


def test_segmenter_trains_and_tests(scenes, tmp_path):
    seg = [o for o in options(scenes, iters=2, **{"model.data_preprocessor.size": "(96,96)"}) if "ann_file" not in o]
    tool("train", SEGMENTER, "--work-dir", str(tmp_path), *seg)
    text = tool(
        "test", SEGMENTER, str(tmp_path / "iter_2.pth"), "--work-dir", str(tmp_path), "--macs-pictures", "1", *seg
    )
    assert "mIoU" in text and re.search(r"total +[\d.]+ +[\d.]+", text)


def forked(*args):
    return run_tool_in_two("train", *args)


def by_script(config, *args):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = dict(PYTHON=sys.executable, PORT=str(free.getsockname()[1]), OMP_NUM_THREADS="1")  # a core for each
    command = ["bash", "tools/dist_train.sh", config, "2", *args]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **own})
    return [(done.returncode, done.stdout, done.stderr)]


def test_what_the_script_for_several_processes_runs():
    command, env = ["bash", "tools/dist_train.sh", "CONFIG", "2", "--resume"], {**os.environ, "PYTHON": "echo"}
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env).stdout
    assert told.startswith("-m torch.distributed.run ") and " --nproc-per-node=2 " in told
    assert told.endswith("tools/train.py CONFIG --launcher pytorch --resume\n")


@pytest.mark.parametrize("launch", [forked, pytest.param(by_script, marks=pytest.mark.slow)])
def test_two_processes(launch, scenes, tmp_path):
    short = options(scenes, iters=16, **{"optim_wrapper.optimizer.lr": 5e-4})
    for code, out, err in launch(DEMO, "--work-dir", str(tmp_path), *short):
        assert code == 0, out[-3000:] + err[-3000:]
    (log,) = tmp_path.glob("*/*.log")  # of the first one
    assert "Distributed training: True" in log.read_text()
    found = losses(tmp_path)
    values = [found[i] for i in range(1, 17)]
    assert all(math.isfinite(value) for value in values)
    assert mean(values[-4:]) < mean(values[:4])


def test_get_flops_and_benchmark(scenes):
    text = tool("analysis_tools/get_flops", DEMO, "--num-images", "2", *options(scenes))
    assert "2 pictures of the test set" in text and re.search(r"total .* \d+\.\d%", text)
    code, out, err = run_tool("analysis_tools/get_flops", DEMO, "--shape", "96", "96", "--macs", "0.8", "--json")
    assert code == 0 and "leave 80% of the first picture's dense arithmetic" in err
    share, total = float(re.search(r"total .* (\d+\.\d)%", err)[1]), json.loads(out)["macs"]["total"]
    assert share == pytest.approx(80, abs=0.4) and 100 * total["executed"] / total["dense"] == pytest.approx(
        share, abs=0.06
    )
    code, out, err = run_tool("analysis_tools/benchmark", DEMO, "--shape", "96", "96", "--rounds", "2", "--warmup", "1",
                              "--batch-sizes", "1", "2", "--json")  # fmt: skip
    told = re.findall(r"^(backbone|whole) +(\d) .*?(\d+\.\d\d)x +(\d+\.\d\d)x$", err, re.M)
    rows = json.loads(out)["rows"]
    assert code == 0 and len(rows) == 4
    assert [
        (row["part"], str(row["batch"]), f"{row['routed']['speedup']:.2f}", f"{row['by_macs']:.2f}") for row in rows
    ] == told


@pytest.mark.parametrize(
    "args, message",
    [
        (["train", "configs/none.py"], "`config` to be a config file"),
        (["test", DEMO, "none.pth"], "`checkpoint` to be a file, but got 'none.pth'"),
        (["train", DEMO, "--cfg-options", "model.backbone.sparsity.keep_ratio=1.5"], r"in (0, 1], but got 1.5"),
    ],
)
def test_mistakes_are_one_sentence(args, message, tmp_path):
    text = tool(*args, "--work-dir", str(tmp_path), ok=False)
    assert message in text.splitlines()[-1]


def test_unwritable_work_dir(tmp_path):
    (tmp_path / "file").write_text("")
    text = tool("train", DEMO, "--work-dir", str(tmp_path / "file" / "below"), ok=False)
    assert "Argument `work_dir`: cannot write to" in text.splitlines()[-1]
