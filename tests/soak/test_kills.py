"""``kill -9`` at moments of a training that nobody chose: it goes on from a whole checkpoint, to the same losses."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from scenes import ROOT, options

pytestmark = pytest.mark.soak
CONFIG = "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py"
ITERATIONS, EVERY = 300, 3
OFTEN = [  # and no augmentation is random
    f"default_hooks.checkpoint.interval={EVERY}",
    "default_hooks.checkpoint.max_keep_ckpts=1",
    "train_cfg.val_interval=20",
]


def command(data: Path, work_dir: Path, iters: int, launcher: list[str]) -> list[str]:
    tool = launcher or [sys.executable, "-m"]
    more = ["--launcher", "pytorch"] if launcher else []
    line = [*tool, "mmsparse", "train", CONFIG, "--resume", "--work-dir", str(work_dir), *more, *options(data, iters)]
    return [*line, *OFTEN]


def start(line: list[str], log: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with log.open("a") as out:
        return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True)


def logged(work_dir: Path) -> list[tuple[int, float]]:
    """Each iteration that was taken, in order, with its loss; the last line may be torn."""
    files = sorted(work_dir.glob("*/vis_data/scalars.json"), key=lambda path: path.stat().st_mtime)
    lines = [line for path in files for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    entries = [json.loads(line) for line in lines]
    return [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]


def wait(process: subprocess.Popen, reached) -> bool:
    """Until something is so; False if the process has ended before."""
    while process.poll() is None:
        if reached():
            return True
        time.sleep(0.001)
    return False


def kill_at(kind: str, process: subprocess.Popen, work_dir: Path, log: Path, chance: random.Random) -> bool:
    """Kill a training at a random moment of a kind, after it has taken a step; False if it has ended by then."""
    before, told = len(logged(work_dir)), log.stat().st_size
    if not wait(process, lambda: len(logged(work_dir)) > before):
        return False
    if kind == "writing":
        reached = wait(process, lambda: any(work_dir.glob(".*.part")))
    elif kind == "evaluating":
        reached = wait(process, lambda: b"Iter(val)" in log.read_bytes()[told:])
    else:
        time.sleep(chance.uniform(0.0, 4.0))
        reached = process.poll() is None
    if reached:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return reached


def test_a_training_that_is_killed_twenty_times(scenes, tmp_path, figures):
    straight, killed, log = tmp_path / "straight", tmp_path / "killed", tmp_path / "log.txt"
    assert start(command(scenes, straight, ITERATIONS, []), log).wait() == 0, log.read_text()[-3000:]
    expected = dict(logged(straight))
    assert sorted(expected) == list(range(1, ITERATIONS + 1))

    chance = random.Random(0)
    kinds = ["anywhere"] * 10 + ["writing"] * 6 + ["evaluating"] * 4
    chance.shuffle(kinds)
    repeated = []
    for kind in kinds:
        taken = len(logged(killed))
        process = start(command(scenes, killed, ITERATIONS, []), log)
        assert kill_at(kind, process, killed, log, chance), f"ended before it was killed:\n{log.read_text()[-3000:]}"
        steps = [step for step, _ in logged(killed)]
        if taken:
            repeated.append(steps[taken - 1] + 1 - steps[taken])
        else:
            assert steps[0] == 1
    before = [step for step, _ in logged(killed)]
    assert start(command(scenes, killed, ITERATIONS, []), log).wait() == 0, log.read_text()[-3000:]
    after = logged(killed)
    repeated.append(before[-1] + 1 - after[len(before)][0])
    assert {step for step, _ in after} == set(expected)
    differing = [step for step, loss in after if loss != expected[step]]
    figures["kills"] = dict(
        kills=len(kinds), writing=kinds.count("writing"), evaluating=kinds.count("evaluating"),
        iterations=ITERATIONS, every=EVERY, repeated=max(repeated), differing=len(differing),
    )  # fmt: skip
    assert not differing and max(repeated) <= EVERY + 1
    assert [path.name for path in killed.glob("*.pth")] == [f"iter_{ITERATIONS}.pth"]


def test_one_of_two_processes_is_killed(scenes, tmp_path, figures):
    """torchrun starts both again."""
    iters, log = 40, tmp_path / "log.txt"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    launcher += ["--max-restarts=3", "-m"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert start(command(scenes, straight, iters, launcher), log).wait() == 0, log.read_text()[-3000:]
    process = start(command(scenes, killed, iters, launcher), log)
    kills = 0
    for reached in (7, 22):
        assert wait(process, lambda: bool(taken := logged(killed)) and taken[-1][0] >= reached)
        victim = random.Random(reached).choice(psutil.Process(process.pid).children())
        victim.kill()
        kills += 1
    assert process.wait() == 0, log.read_text()[-3000:]
    expected, found = dict(logged(straight)), logged(killed)
    assert {step for step, _ in found} == set(range(1, iters + 1))
    differing = [step for step, loss in found if loss != expected[step]]
    figures["two processes"] = dict(kills=kills, iterations=iters, differing=len(differing))
    assert not differing
