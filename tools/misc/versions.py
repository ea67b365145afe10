"""Run the suite in other versions of Python, torch and OpenMMLab: what passes in each, in one file.

Each set gets an environment of its own under --envs, made by uv, in which the tests of --tests run. Sets that are in
--out already are skipped; docs/reliability.md tells the file.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from mmsparse.cli.main import run_script
from mmsparse.files import write_whole

ROOT = Path(__file__).parents[2]
SUMMARY = re.compile(r"(\d+) (passed|failed|skipped|errors?)\b")


@dataclass(frozen=True)
class Versions:
    """What is installed; the lowest and the highest torch that mmsparse says it takes are among them."""

    python: str
    stack: str
    torch: str
    torchvision: str

    @property
    def name(self) -> str:
        return f"{self.stack}-py{self.python}-torch{self.torch}"


SETS = [
    Versions("3.11", "onedl", "2.6.0", "0.21.0"),
    Versions("3.11", "onedl", "2.15.0", "0.29.2"),
    Versions("3.11", "upstream", "2.11.0", "0.26.0"),
    Versions("3.12", "onedl", "2.11.0", "0.26.0"),
    Versions("3.13", "onedl", "2.11.0", "0.26.0"),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = [versions.name for versions in SETS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=" ".join(names))
    parser.add_argument("--tests", nargs="+", default=["tests"], help="paths of tests; default the whole suite")
    parser.add_argument("--envs", type=Path, default=Path("work_dirs/versions"), help="6 GB for each set")
    parser.add_argument("--out", type=Path, default=Path("docs/versions.json"))
    parser.add_argument("--processes", type=int, default=os.cpu_count())


def run(args: argparse.Namespace) -> None:
    found = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for versions in SETS:
        if versions.name in args.only and versions.name not in found:
            found[versions.name] = {**asdict(versions), **tried(versions, args)}
            write_whole(json.dumps(found, indent=1) + "\n", args.out)
        if versions.name in found:
            print(f"{versions.name:<32}{json.dumps(found[versions.name]['counts'])}", flush=True)


def tried(versions: Versions, args: argparse.Namespace) -> dict[str, object]:
    """How many tests did what, and which failed."""
    python = installed(versions, args.envs)
    line = [python, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-o", "addopts=", "-m",
            "not slow and not soak and not browser", "--numprocesses", str(args.processes), *args.tests]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run([str(word) for word in line], cwd=ROOT, env=environment, capture_output=True, text=True)
    (args.envs / f"{versions.name}.log").write_text(done.stdout + done.stderr)
    counts = {what.rstrip("s"): int(count) for count, what in SUMMARY.findall(done.stdout.splitlines()[-1])}
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return dict(tests=args.tests, counts=counts, failed=failed)


def installed(versions: Versions, envs: Path) -> Path:
    """The Python of an environment, which is made once."""
    folder = (envs / versions.name).absolute()
    python, ready = folder / "bin/python", folder / ".ready"
    if not ready.is_file():
        uv = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
        envs.mkdir(parents=True, exist_ok=True)
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", versions.python, str(folder)], check=True)
        what = [f"torch=={versions.torch}", f"torchvision=={versions.torchvision}"]
        theirs = envs / f"{versions.name}.txt"  # also beyond pyproject's bounds, which are what was tried before
        theirs.write_text("\n".join(what) + "\n")
        what += ["--overrides", str(theirs.absolute())]
        what += ["--editable", f"{ROOT}[{versions.stack},deploy]", "--group", f"{ROOT}/pyproject.toml:dev"]
        # Outside of the project, whose own settings hold one torch; in it, for what upstream is built with.
        beside = folder.anchor if versions.stack == "onedl" else ROOT
        subprocess.run([uv, "pip", "install", "--quiet", "--python", str(python), *what], cwd=beside, check=True)
        ready.touch()
    return python


if __name__ == "__main__":
    sys.exit(run_script(__doc__, add_arguments, run))
