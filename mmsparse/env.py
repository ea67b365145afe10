"""The OpenMMLab packages this one stands on: ``python -m mmsparse.env`` says what is there and what is in the way."""

import importlib
import json
import re
import sys
import textwrap
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mmsparse import mmcv_ops

# import name: (upstream distribution, onedl distribution)
STACK = {
    "mmengine": ("mmengine", "onedl-mmengine"),
    "mmcv": ("mmcv", "onedl-mmcv"),
    "mmdet": ("mmdet", "onedl-mmdetection"),
    "mmseg": ("mmsegmentation", "onedl-mmsegmentation"),
    "mmpretrain": ("mmpretrain", "onedl-mmpretrain"),
}
TORCH = (2, 6)  # before it a file could get round the loading of weights alone
BASE = ("torch", "torchvision", "numpy", "tqdm")  # import name and distribution
INSTALL = (
    "pip install 'mmsparse[onedl]' (the maintained forks) or pip install 'mmsparse[upstream]'; "
    "in a clone, `make setup` or `make setup STACK=upstream`"
)


@cache  # each config that is read asks for all of them
def installed(distribution: str) -> str | None:
    """Version of a distribution, None if it is absent."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def has(library: str) -> bool:
    """Whether a package of the stack is installed, of either kind."""
    return any(installed(dist) for dist in STACK[library])


def stack_problems(needed: tuple[str, ...] = tuple(STACK)) -> list[str]:
    """One sentence for each thing that is missing or mixed. Looks at metadata only."""
    found = {name: [dist for dist in STACK[name] if installed(dist)] for name in STACK}
    problems = []
    missing = [name for name in needed if not found[name]]
    if missing:
        problems.append(f"Not installed: {', '.join(missing)}. Install one stack: {INSTALL}.")
    twice = [dists for dists in found.values() if len(dists) == 2]
    for upstream, onedl in twice:
        problems.append(
            f"{upstream} and {onedl} are both installed and overwrite each other's files. Keep one: "
            f"pip uninstall -y {upstream} {onedl}, then {INSTALL}."
        )
    kinds = {dist.startswith("onedl-"): dist for dists in found.values() if len(dists) == 1 for dist in dists}
    if len(kinds) == 2 and not twice:
        problems.append(f"The stacks are mixed: {kinds[True]} beside {kinds[False]}. Remove one, then {INSTALL}.")
    return problems


def require(*needed: str) -> None:
    """Raise one clear message if the stack cannot work."""
    problems = stack_problems(needed)
    if problems:
        raise RuntimeError(" ".join(problems))


def torch_problems() -> list[str]:
    """One sentence if torch is missing or too old. Looks at metadata, and at a torch without any if it is imported."""
    found = installed("torch") or getattr(sys.modules.get("torch"), "__version__", None)
    if found and tuple(map(int, re.findall(r"\d+", found)[:2])) >= TORCH:
        return []
    least = ".".join(map(str, TORCH))
    there = f"torch {found} is too old" if found else "torch is not installed"
    needed = f"mmsparse needs torch>={least} and a torchvision of the same time"
    return [f"{there}: {needed}. pip install 'torch>={least}' torchvision"]


def require_torch() -> None:
    """Raise one clear message if torch is missing or too old."""
    if problems := torch_problems():
        raise RuntimeError(problems[0])


def require_for(error: Exception) -> None:
    """Raise one clear message if a module could not be imported for what is missing or old."""
    name = str(error.name).partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if name in STACK:
        require(name)
    require_torch()
    if name in BASE:
        raise RuntimeError(f"Not installed: {name}. pip install {name}")


def operator_problems() -> list[str]:
    """Compiled parts that do not load. Imports torch, torchvision and mmcv."""
    problems = []
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        problems.append(
            f"torchvision does not fit torch ({error}). Install a matching pair, such as 0.26.0 with 2.11.0."
        )
    try:
        importlib.import_module("mmcv.ops")
    except (ImportError, RuntimeError, AssertionError) as error:
        problems.append(f"mmcv's operators do not load ({error}): detection will fail. Install mmcv anew.")
    return problems


def operators() -> dict[str, list[str]] | None:
    """mmcv's operators that mmsparse serves and those that are not there; None: mmcv's own are compiled."""
    module = importlib.import_module("mmcv._ext")
    if module.__file__ != mmcv_ops.FILE:
        return None
    return {
        kind: sorted({_operator(name) for name in names if not name.startswith("get_compil")})
        for kind, names in (("served", module.__all__), ("absent", module.refused))
    }


def _operator(name: str) -> str:
    """Without which of its functions it is."""
    return re.sub("_(forward|backward)(_.*)?$", "", name)


def look() -> dict[str, Any]:
    """What is installed, on what it runs, and what is in the way."""
    from mmsparse import __version__

    found: dict[str, Any] = {"mmsparse": __version__, "python": sys.version.split()[0]}
    found |= {dist: installed(dist) or "missing" for dist in ("torch", "torchvision", "numpy")}
    for name, dists in STACK.items():
        found[name] = {dist: installed(dist) for dist in dists if installed(dist)} or "missing"
    problems = torch_problems() + stack_problems()
    if installed("torch"):
        import torch

        found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        problems += operator_problems()
        if "mmcv.ops" in sys.modules:
            found["mmcv ops"] = operators()
    return {**found, "problems": problems}


def say(found: Mapping[str, Any]) -> None:
    for name, value in found.items():
        if name != "problems":
            print(textwrap.fill(f"{name:<12} {_words(name, value)}", 118, subsequent_indent=" " * 13))
    for problem in found["problems"]:
        print(f"problem: {problem}")
    print(f"{len(found['problems'])} known conflict(s)")


def _words(name: str, value: Any) -> str:
    if name == "mmcv ops" and value:
        return (
            f"not compiled; {len(value['served'])} served by mmsparse from torchvision and PyTorch: "
            f"{', '.join(value['served'])}; {len(value['absent'])} not there (OPS=compiled make setup): "
            f"{', '.join(value['absent'])}"
        )
    if name == "mmcv ops":
        return "compiled"
    return ", ".join(f"{dist} {version}" for dist, version in value.items()) if isinstance(value, dict) else value


def main() -> int:
    found = look()
    if "--json" in sys.argv[1:]:
        print(json.dumps(found))
    else:
        say(found)
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
