"""Tools of hours go on from the file that they keep, also where they ended while they wrote it."""

import importlib.util
import json
import sys
from argparse import Namespace
from functools import cache
from types import ModuleType

import pytest
from mmengine.config import Config
from scenes import ROOT

from mmsparse import files

NAMES = ["first", "second", "third"]


@cache
def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/misc/{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(ROOT / "tools/misc"))
    spec.loader.exec_module(module)
    sys.path.remove(str(ROOT / "tools/misc"))
    return module


def study(folder, monkeypatch, done):
    (folder / "study.py").write_text(f"runs = {[dict(name=name) for name in NAMES]}")
    monkeypatch.setattr(tool("study"), "carry_out", lambda run, *_: done.append(run.name) or {"own": {"macs": 1}})
    args = Namespace(study=folder / "study.py", out_dir=folder, only=None, time=(), trust_checkpoint=False)
    return tool("study").run, args, folder / "results.json"


def calibrate_study(folder, monkeypatch, done):
    def measured(case, args):
        done.append(case["part"])
        return dict(places=1, routed=0, share=1.0)

    monkeypatch.setattr(tool("calibrate_study"), "_measured", measured)
    args = Namespace(out=folder / "cases.json", threads=1, rounds=1, seed=0, count=3, runtimes=["eager"])
    return tool("calibrate_study").run, args, args.out


def check_stock_configs(folder, monkeypatch, done):
    module = tool("check_stock_configs")
    monkeypatch.setattr(module, "stock_configs", lambda globs: NAMES)
    monkeypatch.setattr(module, "read_config", lambda name: Config(dict(model=dict(type=name), optim_wrapper={})))
    passed = dict(status=module.PASSES, why="", left=0.5, seconds=1)
    monkeypatch.setattr(module, "run", lambda name, _: done.append(name) or passed)
    args = Namespace(only=["*"], sample=None, list=False, out=str(folder / "found.json"), again=False, timeout=1)
    return module.main, args, folder / "found.json"


@pytest.mark.parametrize("prepared", [study, calibrate_study, check_stock_configs], ids=lambda made: made.__name__)
def test_what_ends_while_it_writes_repeats_one(prepared, tmp_path, monkeypatch):
    done, flushed = [], []
    run, args, kept = prepared(tmp_path, monkeypatch, done)

    def ends_at_the_second(file):
        flushed.append(file)
        if len(flushed) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", ends_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(args)
    assert len(done) == 2 and not list(tmp_path.rglob("*.part"))
    run(args)
    assert len(done) == 4 and done[2] == done[1]
    content = json.loads(kept.read_text())
    assert len(content.get("cases", content)) == 3
