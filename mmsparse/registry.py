"""Children of mmengine's registries, so that ``type='mmsparse.X'`` works from every OpenMMLab scope.

Nothing optional is imported here: the modules named in ``locations`` are imported on the first look-up, and
their errors do reach the user.
"""

import inspect
from collections.abc import Collection, Sequence
from typing import Any

from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import Registry

MODELS = Registry("model", parent=MMENGINE_MODELS, locations=["mmsparse.models", "mmsparse.sparsity"], scope="mmsparse")
HOOKS = Registry("hook", parent=MMENGINE_HOOKS, locations=["mmsparse.engine"], scope="mmsparse")
OPTIM_WRAPPERS = Registry(
    "optim_wrapper", parent=MMENGINE_OPTIM_WRAPPERS, locations=["mmsparse.engine"], scope="mmsparse"
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    locations=["mmsparse.engine"],
    scope="mmsparse",
)


def build(cfg: dict[str, Any], base: type = object, argument: str = "cfg", **defaults: Any) -> Any:
    """Build a nested part of a model from its config.

    ``MODELS.build`` would look the type up in the scope of the running config (``mmdet``, say) and not find it;
    ``MODELS.get`` starts from this registry whatever the default scope is.

    Args:
        cfg: Config with the key ``type``: a name, a scoped name or a class.
        base: What the class must be a subclass of.
        argument: How errors call the config.
        defaults: Arguments that the caller supplies; ``cfg`` may override them.
    """
    if not isinstance(cfg, dict) or "type" not in cfg:
        raise TypeError(_expected(base, argument, cfg))
    kwargs = {**defaults, **cfg}
    kind = kwargs.pop("type")
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ValueError(_expected(base, argument, kind))
    check_arguments(f"argument `{argument}`", kwargs, cls)
    return cls(**kwargs)


def build_hooks(cfgs: Sequence[Any], where: str = "") -> list[Any]:
    """The hooks of this package among a config's, so that their mistakes are found and told early.

    Args:
        cfgs: What the config calls ``custom_hooks``.
        where: What errors begin with.
    """
    hooks = []
    for cfg in cfgs:
        kind = cfg.get("type") if isinstance(cfg, dict) else None
        if isinstance(kind, str) and kind.startswith("mmsparse."):
            if kind not in HOOKS:
                raise ValueError(f"{where}Argument `custom_hooks`: {kind!r} is none of {_known(HOOKS, object)}")
            kind = HOOKS.get(kind)
        if isinstance(kind, type) and kind in HOOKS.module_dict.values():
            given = {key: value for key, value in cfg.items() if key not in ("type", "priority")}
            check_arguments(f"{where}mmsparse.{kind.__name__}", given, kind)
            hooks.append(kind(**given))
    return hooks


def _expected(base: type, argument: str, given: Any) -> str:
    return (
        f"Expected argument `{argument}` to be a dict whose 'type' is one of {_known(MODELS, base)} or another "
        f"registered subclass of {base.__name__}, but got {given!r}"
    )


def _known(registry: Registry, base: type) -> list[str]:
    registry.import_from_location()
    return sorted(n for n, cls in registry.module_dict.items() if isinstance(cls, type) and issubclass(cls, base))


def check_arguments(where: str, given: Collection[str], cls: type) -> None:
    """Say which keys of a config its class does not know, or lacks; one that takes ``**kwargs`` knows all."""
    parameters = inspect.signature(cls).parameters.values()
    known = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    if all(p.kind is not p.VAR_KEYWORD for p in parameters):
        check_keys(where, given, known, cls.__name__)
    if lacking := [name for name, p in known.items() if p.default is p.empty and name not in given]:
        raise ValueError(f"{where} has no {_keys(lacking)}, which {cls.__name__} needs")


def check_keys(where: str, given: Collection[str], known: Collection[str], owner: str = "it") -> None:
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{where} has the unknown {_keys(unknown)}; {owner} knows {sorted(known)}")


def _keys(names: Sequence[str]) -> str:
    return f"key{'s' * (len(names) > 1)} {', '.join(map(repr, names))}"
