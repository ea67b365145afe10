"""The same function in two processes of one group, forked from a process that has imported the libraries already."""

import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from commands import CONTEXT


def in_two_processes(work: Callable[[int], None], folder: Path, seconds: float = 240.0) -> None:
    """Run ``work(rank)``; an error of one, or that one waits for the other in vain, is an error here."""
    processes = [CONTEXT.Process(target=_main, args=(work, rank, folder)) for rank in (0, 1)]
    for process in processes:
        process.start()
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    errors = [path.read_text() for path in sorted(folder.glob("error*"))]
    assert not errors, "\n".join(errors)
    assert [process.exitcode for process in processes] == [0, 0]


def _main(work: Callable[[int], None], rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meet", timeout=timedelta(seconds=20), rank=rank, world_size=2
    )
    try:
        work(rank)
    except BaseException:
        (folder / f"error{rank}").write_text(traceback.format_exc())
        raise
