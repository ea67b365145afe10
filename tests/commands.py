"""Tools as commands: each in a process of its own, forked from one that has imported the libraries already."""

import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
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
    return _run(name, args, [{}])[0]


def run_tool_in_two(name: str, *args: str | Path) -> list[tuple[int, str, str]]:
    """The same of two processes of one group, as ``torchrun`` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = dict(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
    ranks = [dict(group, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]
    return _run(name, (*args, "--launcher", "pytorch"), ranks)


def _run(name: str, args: Sequence[str | Path], environments: list[dict[str, str]]) -> list[tuple[int, str, str]]:
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in environments]
        processes = [
            CONTEXT.Process(target=_main, args=(name, [str(arg) for arg in args], str(folder), environment))
            for folder, environment in zip(folders, environments, strict=True)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        streams = [[(folder / stream).read_text() for stream in ("out", "err")] for folder in folders]
    return [(process.exitcode, *told) for process, told in zip(processes, streams, strict=True)]


def _main(name: str, args: list[str], folder: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
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
