"""Tools as commands: each in a process of its own, forked from one that has imported the libraries already."""

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import hasten  # noqa: F401
import torch
from scenes import ROOT, at

from mmsparse.cli.building import build_model
from mmsparse.configs import read_config

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["mmdet.apis", "mmseg.apis", "mmpretrain.apis", "mmsparse.models", "mmsparse.engine", "mmsparse.analysis"]
)


def run_tool(name: str, *args: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of ``python tools/name.py args``."""
    with tempfile.TemporaryDirectory() as folder:
        process = CONTEXT.Process(target=_main, args=(name, [str(arg) for arg in args], folder))
        process.start()
        process.join()
        out, err = ((Path(folder) / stream).read_text() for stream in ("out", "err"))
    return process.exitcode, out, err


def _main(name: str, args: list[str], folder: str) -> None:
    for number, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(folder) / stream, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(ROOT)
    sys.argv = [f"tools/{name}.py", *args]
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.exit(code)


def tool(name: str, *args: str, ok: bool = True) -> str:
    """What a tool prints; it must succeed, or not."""
    code, out, err = run_tool(name, *args)
    assert (code == 0) == ok, out[-3000:] + err[-3000:]
    return out + err


def run_untrained(
    name: str, config: str, data: Path, folder: Path, *more: str | Path, options: Sequence[str] = ()
) -> tuple[int, str, str]:
    """``run_tool`` on a config with random weights, ``weights.pth`` in a folder, and the test set of scenes; what it
    writes is in ``out`` there.
    """
    torch.manual_seed(0)
    weights = folder / "weights.pth"
    torch.save({"state_dict": build_model(read_config(config)).state_dict()}, weights)
    place = [f"{key}={value}" for key, value in at(data).items() if "test_" in key]
    return run_tool(name, config, weights, "--out", folder / "out", *more, "--cfg-options", *place, *options)
