"""A dense config in, its dynamic twin out: what ``mmsparse.sparsify`` does to a config of any OpenMMLab library."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from .families import OF_CONVOLUTIONS, REFUSED, ROUTED, Part
from .parts import kind_name, make_dynamic, parts_to_route, route_parts, scoped_kind

UNTRAINED = dict(scorer=dict(type="FeatureNormScorer"))  # knows the importance of a location by itself
STOCK_CONSTRUCTORS = (
    "DefaultOptimWrapperConstructor",
    "LearningRateDecayOptimizerConstructor",
    "LearningRateDecayOptimWrapperConstructor",
    "SparsityOptimWrapperConstructor",
)


def sparsify(
    cfg: Config | Mapping[str, Any],
    keep_ratio: float | Sequence[float] | Mapping[str, Any] = 0.7,
    *,
    neck: bool | Mapping[str, Any] = False,
    head: bool | Mapping[str, Any] = False,
    sparsity: Mapping[str, Any] | None = None,
    hook: Mapping[str, Any] | None = None,
    param_groups: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | str | None = None,
    train: bool = True,
) -> Config:
    """The dynamic twin of a dense config, as a new config; the one given stays as it is.

    Args:
        cfg: A config with a ``model`` whose backbone is a stock ConvNeXt, Swin or ViT. With ``neck`` or ``head`` it
            may be any, and stays as it is if it is another.
        keep_ratio: One number in (0, 1], expanded by the paper's rule, or one per place. Or a dict of such for
            ``backbone``, ``neck`` and ``head``; a backbone that it does not name stays dense.
        neck: Whether the 3x3 convolutions of the neck are routed; a dict gives more of its argument ``sparsity``,
            such as ``tile``.
        head: The same for what follows the neck: dense heads, mask heads, deformable encoders.
        sparsity: More of the backbone's argument ``sparsity``, such as ``places`` or ``scorer``.
        hook: Arguments of ``SparsityHook``.
        param_groups: More keys of ``paramwise_cfg`` for ``SparsityOptimWrapperConstructor``, such as
            ``dict(backbone_mult=0.2, freeze_epochs=5)``. It takes the place of the libraries' own constructors, with
            their keys; a constructor of another origin stays.
        teacher: Adds a ``TeacherHook`` with these arguments, or with this argument ``teacher``.
        train: False for a network that is used as it is, with dense weights: the features' norm chooses, what is not
            chosen keeps its value where blocks are residual, and nothing is added to the training. It loses much;
            ``mmsparse curve`` says how much.
    """
    _check_types(sparsity, hook, param_groups, neck, head, teacher)
    sparsity = dict(sparsity or {})
    if "keep_ratio" in sparsity:
        raise ValueError(
            f"sparsify: expected argument `sparsity` to hold what is not given elsewhere, but got keep_ratio="
            f"{sparsity['keep_ratio']!r} in it. Give the argument `keep_ratio` instead"
        )
    cfg = _new_config(cfg)
    if not train and (hook, param_groups, teacher) != (None, None, None):
        raise ValueError(
            "sparsify: with `train`=False there is nothing to train. Leave out hook, param_groups, teacher"
        )
    parts = {name: more for name, more in dict(neck=neck, head=head).items() if more is not False}
    ratios = _ratio_of_parts(keep_ratio, parts)
    if "backbone" in ratios:
        _route_backbone(cfg, ratios.pop("backbone"), sparsity, bool(parts), train)
    for name, ratio in ratios.items():
        more = {**({} if train else UNTRAINED), **({} if parts[name] is True else parts[name])}
        route_parts(cfg.model, name, cfg.get("default_scope"), dict(keep_ratio=ratio, **more))
    if not train:
        return cfg
    cfg.custom_hooks = _with_hook(cfg.get("custom_hooks"), dict(type="mmsparse.SparsityHook", **(hook or {})))
    if teacher is not None:
        arguments = dict(teacher=teacher) if isinstance(teacher, str) else dict(teacher)
        cfg.custom_hooks = _with_hook(cfg.custom_hooks, dict(type="mmsparse.TeacherHook", **arguments))
    _set_param_groups(cfg, dict(param_groups or {}))
    _check_arguments(cfg)
    return cfg


def parts_that_fit(cfg: Config) -> dict[str, bool]:
    """The parts besides the backbone that ``sparsify`` can route, as its arguments; each was tried alone."""
    fit = {}
    for part, known in parts_to_route(cfg.model, cfg.get("default_scope")).items():
        try:
            if known:
                sparsify(cfg, {part: 0.5}, **{part: True})
                fit[part] = True
        except ValueError:
            continue
    return fit


def _check_types(sparsity: Any, hook: Any, param_groups: Any, neck: Any, head: Any, teacher: Any) -> None:
    for names, kinds, what in (
        (dict(sparsity=sparsity, hook=hook, param_groups=param_groups), Mapping | None, "a dict or None"),
        (dict(neck=neck, head=head), Mapping | bool, "True, False or a dict"),
        (dict(teacher=teacher), Mapping | str | None, "'twin', 'self', a config file, a dict of more or None"),
    ):
        for name, value in names.items():
            if not isinstance(value, kinds):
                raise TypeError(f"sparsify: expected argument `{name}` to be {what}, but got {value!r}")


def _ratio_of_parts(keep_ratio: Any, parts: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(keep_ratio, Mapping):
        if keep_ratio.keys() - {"backbone"} != parts.keys():
            raise ValueError(
                f"sparsify: expected argument `keep_ratio` to name the routed parts {['backbone', *parts]}, but got "
                f"{dict(keep_ratio)}. The arguments `neck` and `head` say whether they are routed"
            )
        return dict(keep_ratio)
    if parts and isinstance(keep_ratio, Sequence):
        raise ValueError(
            f"sparsify: expected argument `keep_ratio` to be one number, or a dict of {['backbone', *parts]}, because "
            f"several parts are routed, but got {keep_ratio}"
        )
    return dict.fromkeys(["backbone", *parts], keep_ratio)


def _route_backbone(cfg: Config, keep_ratio: Any, sparsity: dict[str, Any], optional: bool, train: bool) -> None:
    arguments = dict(keep_ratio=keep_ratio, **sparsity)
    try:
        backbone = find_backbone(cfg)
        if not train:
            stays = {} if backbone.kind in OF_CONVOLUTIONS else dict(fast_path=dict(type="IdentityFastPath"))
            arguments = {**UNTRAINED, **stays, **arguments}
        make_dynamic(backbone, ROUTED["backbone"][backbone.kind], arguments, cfg.get("default_scope"))
    except ValueError as error:
        if not optional or sparsity:
            raise
        print_log(f"The backbone stays dense. {error}", "current")


def find_backbone(cfg: Config) -> Part:
    """The one backbone of a config that can become dynamic, or a sentence on why there is none."""
    found = list(_backbones(cfg.model, "model", cfg.get("default_scope")))
    fitting = [backbone for backbone in found if backbone.kind in ROUTED["backbone"]]
    if len(fitting) == 1:
        return fitting[0]
    allowed = f"Supported are {', '.join(ROUTED['backbone'])}"
    if fitting:
        places = " and ".join(f"{b.path} ({b.kind})" for b in fitting)
        raise ValueError(f"sparsify: the model has several backbones, {places}. Change the type of one by hand")
    if not found:
        raise ValueError(f"sparsify: the model ({kind_name(cfg.model.get('type'))}) has no `backbone`. {allowed}")
    reasons = [f"{b.path} is {b.kind}" + (f": {REFUSED[b.kind]}" if b.kind in REFUSED else "") for b in found]
    raise ValueError(f"sparsify: no backbone of the model can be made dynamic ({'; '.join(reasons)}). {allowed}")


def _backbones(tree: Any, path: str, scope: str | None) -> Iterator[Part]:
    """Every dict called ``backbone`` below a model, outermost first."""
    if isinstance(tree, dict):
        scope = tree.get("_scope_", scope)
        for key, value in tree.items():
            if key == "reid":  # trackers compare small crops by it
                continue
            if key == "backbone" and isinstance(value, dict):
                yield Part(f"{path}.{key}", scoped_kind(value, scope), value, tree)
            yield from _backbones(value, f"{path}.{key}", scope)
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _backbones(value, f"{path}.{index}", scope)


def _new_config(cfg: Config | Mapping[str, Any]) -> Config:
    if not isinstance(cfg, Mapping | Config):
        raise TypeError(f"sparsify: expected argument `cfg` to be a Config or a dict, but got {cfg!r}")
    cfg = copy.deepcopy(cfg) if isinstance(cfg, Config) else Config(copy.deepcopy(dict(cfg)))
    if not isinstance(cfg.get("model"), dict):
        raise ValueError(f"sparsify: expected argument `cfg` to have a dict `model`, but it has {sorted(cfg.keys())}")
    return cfg


def _with_hook(hooks: Sequence[Any] | None, hook: dict[str, Any]) -> list[Any]:
    """The hooks and this one; one of its type that is there already takes its arguments."""
    hooks = list(hooks or [])
    for present in hooks:
        kind = kind_name(present.get("type")) if isinstance(present, dict) else ""
        if kind.rpartition(".")[2] == hook["type"].rpartition(".")[2]:
            present.update(hook)
            return hooks
    return [*hooks, hook]


def _set_param_groups(cfg: Config, more: dict[str, Any]) -> None:
    wrapper = cfg.get("optim_wrapper")
    constructor = kind_name(wrapper.get("constructor", STOCK_CONSTRUCTORS[0])) if wrapper else None
    if wrapper and constructor.rpartition(".")[2] in STOCK_CONSTRUCTORS:
        wrapper.constructor = "mmsparse.SparsityOptimWrapperConstructor"
        if more:
            wrapper.paramwise_cfg = {**(wrapper.get("paramwise_cfg") or {}), **more}
    elif more:
        what = f"its constructor {constructor}" if wrapper else "no `optim_wrapper`"
        raise ValueError(
            f"sparsify: argument `param_groups`={more} cannot be applied, because the config has {what}; the "
            f"constructors that can be replaced are {', '.join(STOCK_CONSTRUCTORS)}"
        )


def _check_arguments(cfg: Config) -> None:
    """Mistakes surface here, not when the written config is trained."""
    from mmsparse.engine.optim_constructor import check_groups
    from mmsparse.registry import build_hooks

    build_hooks(cfg.custom_hooks, "sparsify: ")
    check_groups(cfg)
