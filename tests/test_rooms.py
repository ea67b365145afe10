"""Imports point one way, from the roof to the ground, and nowhere in a circle."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = [
    "version",
    "files",
    "mmcv_ops",
    "mistakes",
    "packaged",
    "trust",
    "env",
    "data_configs",
    "compat",
    "registry",
    "configs",
    "stock",
    "ops",
]
ROOMS = [
    *GROUND,
    "sparsity",
    "apis",
    "calls",
    "checkpoints",
    "models",
    "datasets",
    "analysis",
    "deploy",
    "visualization",
]
ROOMS += ["engine", "rewriting", "cli", "__main__"]  # each may import those before it


@cache
def modules() -> dict[str, Path]:
    files = [path for folder in ("mmsparse", "projects", "tools") for path in (ROOT / folder).rglob("*.py")]
    return {name_of(path): path for path in files if ".mim" not in path.parts}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imported(name: str) -> set[str]:
    """The modules of this repository that a module imports, wherever it does."""
    tree = ast.parse(modules()[name].read_text())
    return {found for node in ast.walk(tree) for found in targets(node, name) if found in modules() and found != name}


def targets(node: ast.AST, name: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = name.split(".") if modules()[name].name == "__init__.py" else name.split(".")[:-1]
        start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
        base = ".".join(part for part in (start, node.module) if part)
        for alias in node.names:
            yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in modules() else base


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def is_script(name: str) -> bool:
    return '__name__ == "__main__"' in modules()[name].read_text()


def test_every_room_has_its_place():
    assert {room(name) for name in modules() if name.startswith("mmsparse.")} == set(ROOMS)


@pytest.mark.parametrize("name", ROOMS)
def test_rooms_import_what_is_below_them(name: str):
    below = ROOMS[: ROOMS.index(name)]
    arrows = {
        (module, target)
        for module in modules()
        if module.startswith("mmsparse.") and room(module) == name
        for target in imported(module)
        if room(target) not in (name, "", *below)
    }
    assert arrows == set()


def test_projects_know_the_package_and_not_each_other():
    def allowed(module: str, target: str) -> bool:
        if target.startswith("projects."):
            return room(target) == room(module)
        return target.startswith("mmsparse") and (room(target) != "cli" or is_script(module))

    projects = [module for module in modules() if module.startswith("projects.")]
    assert [(m, t) for m in projects for t in imported(m) if not allowed(m, t)] == []


def test_nothing_in_the_package_knows_projects_or_tools():
    package = [module for module in modules() if module.startswith("mmsparse")]
    assert [(m, t) for m in package for t in imported(m) if not t.startswith("mmsparse")] == []


def test_there_is_no_circle():
    """Packages' own __init__ files gather what is inside; they are imported by name from outside alone."""
    TopologicalSorter({name: imported(name) for name in modules()}).prepare()


def test_the_idea_knows_tensors_alone():
    """Neither backbones nor pyramids: of the libraries only mmengine's modules and registries."""
    outside = set()
    for name, path in modules().items():
        if name.startswith("mmsparse.") and room(name) in ("ops", "sparsity"):
            for node in ast.walk(ast.parse(path.read_text())):
                outside |= {target.split(".")[0] for target in targets(node, name)}
    assert outside & {"mmcv", "mmdet", "mmseg", "mmpretrain"} == set()
