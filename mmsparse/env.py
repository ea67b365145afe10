"""The OpenMMLab packages this one stands on: ``python -m mmsparse.env`` says what is there and what is in the way."""

import importlib
import re
import sys
import textwrap
from importlib.metadata import PackageNotFoundError, version

from mmsparse import mmcv_ops

# import name: (upstream distribution, onedl distribution)
STACK = {
    "mmengine": ("mmengine", "onedl-mmengine"),
    "mmcv": ("mmcv", "onedl-mmcv"),
    "mmdet": ("mmdet", "onedl-mmdetection"),
    "mmseg": ("mmsegmentation", "onedl-mmsegmentation"),
    "mmpretrain": ("mmpretrain", "onedl-mmpretrain"),
}
INSTALL = (
    "pip install 'mmsparse[onedl]' (the maintained forks) or pip install 'mmsparse[upstream]'; "
    "in a clone, `make setup` or `make setup STACK=upstream`"
)


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


def operators() -> str:
    """Where mmcv's operators come from."""
    module = importlib.import_module("mmcv._ext")
    if module.__file__ != mmcv_ops.FILE:
        return "compiled"
    served, refused = (
        {_operator(name) for name in names if not name.startswith("get_compil")}
        for names in (module.__all__, module.refused)
    )
    return (
        f"not compiled; {len(served)} served by mmsparse from torchvision and PyTorch: {', '.join(sorted(served))}; "
        f"{len(refused)} not there (OPS=compiled make setup): {', '.join(sorted(refused))}"
    )


def _operator(name: str) -> str:
    """Without which of its functions it is."""
    return re.sub("_(forward|backward)(_.*)?$", "", name)


def main() -> int:
    from mmsparse import __version__

    print(f"mmsparse     {__version__}\npython       {sys.version.split()[0]}")
    for dist in ("torch", "torchvision", "numpy"):
        print(f"{dist:<12} {installed(dist) or 'missing'}")
    for name, dists in STACK.items():
        print(f"{name:<12} {', '.join(f'{d} {installed(d)}' for d in dists if installed(d)) or 'missing'}")
    problems = stack_problems()
    if installed("torch"):
        import torch

        print(f"device       {torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu'}")
        problems += operator_problems()
        if "mmcv.ops" in sys.modules:
            print(textwrap.fill(f"mmcv ops     {operators()}", 118, subsequent_indent=" " * 13))
    for problem in problems:
        print(f"problem: {problem}")
    print(f"{len(problems)} known conflict(s)")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
