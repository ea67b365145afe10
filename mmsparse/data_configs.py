"""Resolved configs as JSON or YAML: what is exchanged, for a Python config is a program that runs when it is read."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mmengine.registry
import yaml
from mmengine.config import Config
from mmengine.registry import Registry

from .env import STACK
from .files import write_whole

SUFFIXES = (".json", ".yaml", ".yml")
LIBRARIES = ("mmsparse", *STACK)
TUPLE = "__tuple__"  # {"__tuple__": [1, 2]}: JSON has none, and some transforms take no list for one
YAML_TUPLE = "tag:yaml.org,2002:python/tuple"  # as mmengine writes them
NAMES = ("type", "constructor", "runner_type")  # keys whose values are looked up, in the end as any object of Python
LOADS = ("_base_", "custom_imports")


def read_data_config(path: str | Path) -> Config:
    """A config that is data: nothing of it runs, and no other file is read.

    mmengine would run what the tags of a YAML file and the bases of either say, and look names up that no registry has.
    """
    path = Path(path).expanduser()
    text = path.read_text(encoding="utf-8")
    tree = _from_json(text) if path.suffix == ".json" else yaml.load(text, Loader=_Loader)
    check_data_config(tree)
    return Config(tree, cfg_text=text, filename=str(path.with_suffix(".py")))  # as which a runner writes it


def write_config(cfg: Config, path: str | Path) -> None:
    """Write a config as one self-contained file, by the suffix: .py, .json, .yaml or .yml."""
    path = Path(path)
    if path.suffix == ".py":
        write_whole(cfg.pretty_text, path)
        return
    if path.suffix not in SUFFIXES:
        raise ValueError(f"Expected a config's file to end in .py or one of {SUFFIXES}, but got {str(path)!r}")
    tree = cfg.to_dict()
    check_data_config(tree)
    try:
        text, again = _written(tree, path.suffix)
    except (TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{path.name} cannot hold this config: {error}. Write a .py") from error
    if again != tree:
        changed = sorted(key for key in tree if again.get(key) != tree[key])
        raise ValueError(f"{path.name} cannot hold what is in {changed}, such as keys that are numbers. Write a .py")
    write_whole(text, path)


def check_data_config(tree: Any) -> None:
    """Refuse what would run or be looked up outside of the libraries' registries."""
    if not isinstance(tree, dict):
        raise ValueError(f"expected a mapping of keys, but got a {type(tree).__name__}")
    if found := [key for key in LOADS if tree.get(key)]:
        raise ValueError(
            f"{found[0]}={tree[found[0]]!r} loads other files or modules, which only a .py config may; bases are "
            "resolved by `mmsparse config IN.py OUT.json`"
        )
    _check(tree, _library(tree.get("default_scope", "mmengine")), "")


def _check(tree: Any, scope: str, where: str) -> None:
    if isinstance(tree, str) and "{{" in tree:
        raise ValueError(f"{where}={tree!r} is a placeholder, which only a .py config may have")
    if isinstance(tree, list | tuple):
        for i, value in enumerate(tree):
            _check(value, scope, f"{where}[{i}]")
    if isinstance(tree, dict):
        scope = _library(tree.get("_scope_", scope))
        for key, value in tree.items():
            place = f"{where}.{key}".lstrip(".")
            if key in NAMES and isinstance(value, str) and not _is_registered(value, scope):
                raise ValueError(f"{place}={value!r} is in no registry of {', '.join(LIBRARIES)}")
            _check(value, scope, place)


def _library(scope: Any) -> str:
    if scope not in LIBRARIES:
        raise ValueError(f"expected `default_scope` to be one of {LIBRARIES}, but got {scope!r}")
    return scope


def _is_registered(name: str, scope: str) -> bool:
    """Whether a name means a class of the libraries; a plain word may be a function's, which they know themselves."""
    given, _, own = name.rpartition(".")
    scopes = {given} if given else {scope, "mmengine"}
    for registry in _registries():
        if registry.scope in scopes:
            registry.import_from_location()
            if own in registry.module_dict:
                return True
    return not given and name.isidentifier() and find_spec(name) is None


def _registries() -> Iterator[Registry]:
    """All of mmengine's, with those of the libraries below them."""
    for library in LIBRARIES:
        if find_spec(library) is not None:
            __import__(f"{library}.registry" if library != "mmcv" else library)
    for root in vars(mmengine.registry).values():
        if isinstance(root, Registry):
            yield from (root, *root.children.values())


def _written(tree: dict[str, Any], suffix: str) -> tuple[str, Any]:
    """The text, and what is read from it."""
    if suffix == ".json":
        text = json.dumps(_marked(tree), indent=1) + "\n"
        return text, _from_json(text)
    text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=120)
    return text, yaml.load(text, Loader=_Loader)


def _marked(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _marked(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return {TUPLE: [_marked(value) for value in tree]}
    return [_marked(value) for value in tree] if isinstance(tree, list) else tree


def _from_json(text: str) -> Any:
    return json.loads(text, object_hook=lambda found: tuple(found[TUPLE]) if found.keys() == {TUPLE} else found)


class _Loader(yaml.SafeLoader):
    """Numbers, words, lists, mappings and tuples."""


class _Dumper(yaml.SafeDumper):
    """The same; what is written twice is written out, not referred to."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _tuple_of(loader: yaml.Loader, node: yaml.Node) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))


_Loader.add_constructor(YAML_TUPLE, _tuple_of)
_Dumper.add_representer(tuple, lambda dumper, data: dumper.represent_sequence(YAML_TUPLE, data, flow_style=True))
