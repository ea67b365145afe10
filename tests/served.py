"""``mmsparse app`` in a process of its own, and what sends it requests."""

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import psutil
import pytest
from scenes import ROOT

import mmsparse
from mmsparse.cli.main import main
from mmsparse.datasets.boards import PIXELS_PER_DEFECT, render_board

CONFIG, WEIGHTS = mmsparse.published("atss_dynamic-convnext-pico-w128_whole-m40_in-place_boards")
RESIZE = "test_dataloader.dataset.pipeline.1"
AS_THEY_ARE = {f"{RESIZE}.scale": None, f"{RESIZE}.scale_factor": 1.0}  # pictures keep their own sizes
APP = ROOT / ".app"
IDLE = 11  # seconds after which the app's threads go, with their memory


class Memory(NamedTuple):
    """Bytes of a process."""

    resident: int
    used: int  # of the allocator's memory


class Allocator(ctypes.Structure):
    """What glibc tells of itself."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "free", "top")
    ]


def trimmed() -> Memory:
    """This process's, after everything was given back that can be."""
    c = ctypes.CDLL(None)
    c.mallinfo2.restype = Allocator
    gc.collect()
    c.malloc_trim(0)
    told = c.mallinfo2()
    return Memory(psutil.Process().memory_info().rss, told.uordblks + told.hblkhd)


class Served(NamedTuple):
    """The app in a process of its own."""

    url: str
    process: subprocess.Popen
    folder: Path  # of temporary files
    log: Path

    def memory(self, ask: Callable[[], Any]) -> Memory:
        """When all of its threads are gone but the one that answers."""
        time.sleep(IDLE)
        ask()
        self.process.send_signal(signal.SIGUSR1)
        return Memory(*map(int, self.process.stdout.readline().split()))

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """The most memory that it had since then, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def draw_boards(folder: Path, sizes: Sequence[tuple[int, int]]) -> list[Path]:
    """A picture of each size, height first."""
    paths = []
    for number, (height, width) in enumerate(sizes):
        side = 32 * -(-max(height, width) // 32)
        board = render_board(5, "val", number, side, defects=min(6.5, side * side // PIXELS_PER_DEFECT))
        paths.append(folder / f"board{number}.png")
        cv2.imwrite(str(paths[-1]), board.image[:height, :width])
    return paths


@contextmanager
def served_with(pictures: Sequence[Path], tmp_path: Path) -> Iterator[Served]:
    """The app of the published detector, with pictures to choose from."""
    if not (APP / ".ready").is_file():
        pytest.skip("Gradio is not in .app: `make app` installs it")
    command = [sys.executable, __file__, "app", CONFIG, WEIGHTS, *map(str, pictures)]
    command += ["--port", "0", "--rounds", "0"]
    command += ["--cfg-options", *(f"{key}={value}" for key, value in AS_THEY_ARE.items())]
    log, folder = tmp_path / "log.txt", tmp_path / "temporary"
    folder.mkdir()
    more = {
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", APP))),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder),
    }
    sys.path.append(str(APP))
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **more}, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            url = next((line.split()[0] for line in process.stdout if line.startswith("http")), None)
            assert url, log.read_text()[-3000:]
            yield Served(url, process, folder, log)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.stdout.close()
            sys.path.remove(str(APP))


def over_http(served: Served) -> tuple[Callable[[str, bytes], str], Callable[..., str], Callable[[str], str]]:
    """What sends a file under any name, to its path there; what asks, to a ticket; and what waits for its answer."""
    import httpx

    api = httpx.Client(base_url=f"{served.url}/gradio_api", timeout=600, trust_env=False)

    def send(name: str, content: bytes) -> str:
        (path,) = api.post("/upload", files={"files": (name, content, "image/png")}).raise_for_status().json()
        return path

    def ask(path: str | None, name: str | None, ratio: float) -> str:
        file = None if path is None else {"path": path, "meta": {"_type": "gradio.FileData"}}
        asked = api.post("/call/show", json={"data": [file, name, False, ratio]})
        return asked.raise_for_status().json()["event_id"]

    def answer(ticket: str) -> str:
        told = api.get(f"/call/show/{ticket}").raise_for_status().text
        kind, data = told.strip().rsplit("event: ", 1)[1].split("\ndata: ")
        return json.loads(data)[0] if kind == "complete" else json.loads(data)["error"]

    return send, ask, answer


if __name__ == "__main__":  # the app, which tells its memory when it is asked
    signal.signal(signal.SIGUSR1, lambda *_: print(*trimmed(), flush=True))
    sys.exit(main(sys.argv[1:]))
