"""Parameter groups of a dynamic network: what is new learns at its own rate, what is pretrained rests, then follows."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from mmsparse.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmsparse.sparsity import new_prefixes

STOCK = (
    "custom_keys",
    "bias_lr_mult",
    "bias_decay_mult",
    "norm_decay_mult",
    "flat_decay_mult",
    "dwconv_decay_mult",
    "dcn_offset_lr_mult",
    "bypass_duplicate",
)
OWN = (
    "new_mult",
    "backbone_mult",
    "freeze_epochs",
    "freeze_iters",
    "pretrained",
    "decay_rate",
    "layer_decay_rate",
    "decay_type",
    "num_layers",
)
INSIDE = ("scorer", "fast_path")  # words that name what is in a router


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class SparsityOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with learning rates for dynamic networks and layer-wise decay for any backbone.

    ``paramwise_cfg`` takes mmengine's keys (``custom_keys``, ``norm_decay_mult``, ...), the layer-wise decay as the
    configs of mmdet and mmseg (``decay_rate``, ``decay_type``, ``num_layers``; flat parameters do not decay) or of
    mmpretrain (``layer_decay_rate``) write it, and:

    - ``new_mult``: factor of the learning rate of new parameters, those of every ``NewPart``: routers and the like.
      Layer-wise decay does not concern them, flat ones have no weight decay, and a custom key holds for them only if
      it names them (has 'scorer', 'fast_path' or a new part's own name in it, such as 'router').
    - ``backbone_mult``: factor for pretrained parameters (the paper: 0.2 for ConvNeXt and Swin, 0.01 for ViT).
    - ``freeze_epochs`` or ``freeze_iters``: pretrained parameters stay as they are for so long (the paper: 5 epochs).
      Their gradients are computed and the optimizer's moments collected from the start.
    - ``pretrained``: which parts of the model are pretrained, by default ('backbone',); a classifier's are
      ('backbone', 'head').

    Parameters whose learning rate comes out as 0 are left out of the optimizer. Equal settings share a group.
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        given = dict(paramwise_cfg or {})
        check_paramwise_cfg(given)
        self.own = {key: given.pop(key) for key in OWN if key in given}
        given.setdefault("bypass_duplicate", True)  # a parameter that two modules share is stepped once
        if "decay_rate" in self.own:
            given = {"norm_decay_mult": 0.0, "bias_decay_mult": 0.0, "flat_decay_mult": 0.0, **given}
        super().__init__(optim_wrapper_cfg, given)
        if self.base_lr is None:
            raise ValueError(
                f"SparsityOptimWrapperConstructor: expected `optimizer` to have an `lr`, but got {self.optimizer_cfg}"
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        wrapper = super().__call__(model)
        for key, clock in (("freeze_epochs", "epoch"), ("freeze_iters", "iter")):
            if self.own.get(key):
                wrapper.freeze = freeze = _Freeze(wrapper, key, self.own[key], clock)
                wrapper.optimizer.register_step_pre_hook(freeze.hold)
                wrapper.optimizer.register_step_post_hook(freeze.release)
        return wrapper

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = "", is_dcn_module: int | float | None = None
    ) -> None:
        """Called by mmengine for the model, and by itself for every module inside."""
        super().add_params(params, module, prefix=prefix, is_dcn_module=is_dcn_module)
        if not prefix:
            params[:] = self._merged(params, module)

    def _merged(self, params: list[dict], model: nn.Module) -> list[dict]:
        """The groups of one parameter each that mmengine makes, with our factors, and equal ones joined."""
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        new = new_prefixes(model)
        prefixes = tuple(f"{part}." for part in self.own.get("pretrained", ("backbone",)))
        self._check_model(model, names.values())
        merged: dict[str, dict[str, Any]] = {}
        left_out = []
        for group in params:
            (parameter,) = group.pop("params")
            name = names[id(parameter)]
            if name.startswith(new):
                settings = self._of_new(name, parameter, group, new)
            else:
                settings = self._of_dense(name, group, name.startswith(prefixes), model)
            if settings["lr"] == 0:
                left_out.append(name)
                continue
            joined = merged.setdefault(repr(sorted(settings.items())), dict(params=[], param_names=[], **settings))
            joined["params"].append(parameter)
            joined["param_names"].append(name)
        for group in merged.values():
            shown = {key: value for key, value in group.items() if key not in ("params", "param_names")}
            print_log(f"Parameter group of {len(group['params'])}: {shown}, from {group['param_names'][0]}", "current")
        if left_out:
            print_log(f"Left out of the optimizer (learning rate 0): {left_out}", "current")
        return list(merged.values())

    def _of_new(self, name: str, parameter: Tensor, group: dict[str, Any], new: Sequence[str]) -> dict[str, Any]:
        keys = [key for key in self.paramwise_cfg.get("custom_keys", {}) if key in name]
        words = [*INSIDE, *(prefix.split(".")[-2] for prefix in new if prefix)]
        meant = any(word in max(keys, key=len) for word in words) if keys else False
        settings = self._settings(group if meant else {}, self.own.get("new_mult", 1.0))
        if parameter.dim() == 1:
            settings["weight_decay"] = 0.0
        return settings

    def _of_dense(self, name: str, group: dict[str, Any], pretrained: bool, model: nn.Module) -> dict[str, Any]:
        factor = self.own.get("backbone_mult", 1.0) if pretrained else 1.0
        rate = self.own.get("decay_rate", self.own.get("layer_decay_rate"))
        if rate is not None:
            depth, count = self._depth(name, model.backbone)
            factor *= rate ** (count - 1 - depth)
        frozen = pretrained and bool(self.own.get("freeze_epochs") or self.own.get("freeze_iters"))
        return {**self._settings(group, factor), **(dict(rests_at_first=True) if frozen else {})}

    def _settings(self, group: dict[str, Any], factor: float) -> dict[str, Any]:
        """A group's settings without the multipliers that have been applied."""
        settings = {key: value for key, value in group.items() if key not in ("lr_mult", "decay_mult")}
        settings["lr"] = settings.get("lr", self.base_lr) * factor
        if self.base_wd is not None:
            settings.setdefault("weight_decay", self.base_wd)
        return settings

    def _depth(self, name: str, backbone: nn.Module) -> tuple[int, int]:
        """Depth of a parameter and the number of depths, counted as the stock constructors do."""
        depth, count = backbone.get_layer_depth(name, "backbone.")
        if self.own.get("decay_type", "layer_wise") == "layer_wise":
            return depth, count
        count = self.own.get("num_layers", len(backbone.stages)) + 2
        if name.startswith("backbone.stages."):
            return int(name.split(".")[2]) + 1, count
        return (0 if depth == 0 or name.startswith("backbone.downsample_layers.") else count - 1), count

    def _check_model(self, model: nn.Module, names: Collection[str]) -> None:
        for part in self.own.get("pretrained", ()):
            if not any(name.startswith(f"{part}.") for name in names):
                raise ValueError(
                    f"`pretrained`: {type(model).__name__} has no parameters under {part!r}; its parts are "
                    f"{[name for name, _ in model.named_children()]}"
                )
        rate = next((key for key in ("decay_rate", "layer_decay_rate") if key in self.own), None)
        if rate is None:
            return
        backbone = getattr(model, "backbone", None)
        if not hasattr(backbone, "get_layer_depth"):
            raise ValueError(
                f"`{rate}`: {type(backbone).__name__} as backbone does not know the depth of its parameters (it has no "
                "get_layer_depth). Leave the layer-wise decay out, or use a dynamic backbone"
            )
        if self.own.get("decay_type") == "stage_wise":
            if not hasattr(backbone, "stages"):
                raise ValueError(
                    f"`decay_type`: 'stage_wise' needs a backbone with stages, but got {type(backbone).__name__}. "
                    "Use 'layer_wise'"
                )
        elif "num_layers" in self.own:
            known = backbone.get_layer_depth("backbone.", "backbone.")[1] - 2
            if self.own["num_layers"] != known:
                raise ValueError(
                    f"`num_layers`: got {self.own['num_layers']}, but {type(backbone).__name__} counts {known} layers. "
                    "Leave it out; the backbone knows"
                )


class _Freeze:
    """Rates of 0 for the time of one optimizer step, so that schedulers, logs and checkpoints see the true ones."""

    def __init__(self, wrapper: OptimWrapper, key: str, length: int, clock: str) -> None:
        self.wrapper = wrapper
        self.key = key
        self.length = length
        self.clock = clock
        self.held: list[tuple[dict[str, Any], float]] = []

    def hold(self, optimizer: Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
        hub = self.wrapper.message_hub
        now, end = hub.get_info(self.clock), hub.get_info(f"max_{self.clock}s")
        if now is None or end is None:
            raise ValueError(f"`{self.key}` needs mmengine's Runner, which says what time it is; leave it out here")
        self.check(end)
        self.held = []
        if now < self.length:
            self.held = [(group, group["lr"]) for group in optimizer.param_groups if group.get("rests_at_first")]
        for group, _ in self.held:
            group["lr"] = 0.0

    def check(self, end: int) -> None:
        """Refuse a training of so many epochs or iterations."""
        if self.length >= end and self.key == "freeze_epochs" and end == 1:  # mmengine counts iterations as one epoch
            raise ValueError(_other_clock(self.length, "or is one epoch long"))
        if self.length >= end:
            raise ValueError(_without_end(self.key, self.length, end))

    def release(self, optimizer: Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
        for group, lr in self.held:
            group["lr"] = lr


def check_length(wrapper: OptimWrapper, max_epochs: int, max_iters: int) -> None:
    """Say that a freeze lasts as long as the training, before its first step; the wrapper may be of any constructor."""
    freeze = getattr(wrapper, "freeze", None)
    if isinstance(freeze, _Freeze):
        freeze.check(max_epochs if freeze.clock == "epoch" else max_iters)


def check_groups(cfg: Mapping[str, Any]) -> None:
    """Say what is wrong with a config's parameter groups, if our constructor makes them."""
    wrapper = cfg.get("optim_wrapper") or {}
    if SparsityOptimWrapperConstructor.__name__ in str(wrapper.get("constructor")):
        paramwise_cfg = wrapper.get("paramwise_cfg") or {}
        check_paramwise_cfg(paramwise_cfg)
        check_freeze(paramwise_cfg, cfg.get("train_cfg") or {})


def check_freeze(given: Mapping[str, Any], train_cfg: Mapping[str, Any]) -> None:
    """Say that a freeze lasts as long as the training, as far as the training's config tells its length."""
    counts_iterations = "max_iters" in train_cfg or not train_cfg.get("by_epoch", True)
    if given.get("freeze_epochs") and (counts_iterations or "IterBased" in str(train_cfg.get("type"))):
        raise ValueError(_other_clock(given["freeze_epochs"], f"train_cfg={dict(train_cfg)}"))
    for key, end in (("freeze_epochs", train_cfg.get("max_epochs")), ("freeze_iters", train_cfg.get("max_iters"))):
        if end is not None and given.get(key, 0) >= end:
            raise ValueError(_without_end(key, given[key], end))


def _other_clock(epochs: int, why: str) -> str:
    return f"`freeze_epochs`: got {epochs}, but this training counts iterations ({why}). Give freeze_iters instead"


def _without_end(key: str, length: int, end: int) -> str:
    unit = key.removeprefix("freeze_")
    return f"`{key}`: {length} would freeze the backbone for the whole training of {end} {unit}. Give a smaller number"


def check_paramwise_cfg(given: Mapping[str, Any]) -> None:
    """Say what is wrong with a ``paramwise_cfg`` before a model is built."""
    unknown = sorted(set(given) - set(STOCK) - set(OWN))
    if unknown:
        raise ValueError(f"Argument `paramwise_cfg`: unknown keys {unknown}; known are {sorted(STOCK + OWN)}")
    for key in ("new_mult", "backbone_mult"):
        if not isinstance(given.get(key, 1.0), int | float) or given.get(key, 1.0) < 0:
            raise ValueError(f"Expected `{key}` to be a number >= 0, but got {given[key]!r}")
    for key in ("freeze_epochs", "freeze_iters"):
        if not isinstance(given.get(key, 0), int) or given.get(key, 0) < 0:
            raise ValueError(f"Expected `{key}` to be a whole number >= 0, but got {given[key]!r}")
    for key in ("decay_rate", "layer_decay_rate"):
        if not isinstance(given.get(key, 1.0), int | float) or not 0.0 < given.get(key, 1.0) <= 1.0:
            raise ValueError(f"Expected `{key}` to be in (0, 1], but got {given[key]!r}")
    for one, other in (("freeze_epochs", "freeze_iters"), ("decay_rate", "layer_decay_rate")):
        if given.get(one) and given.get(other):
            raise ValueError(f"Expected either `{one}` or `{other}`, but got {given[one]} and {given[other]}")
    if given.get("decay_type", "layer_wise") not in ("layer_wise", "stage_wise"):
        raise ValueError(f"Expected `decay_type` to be 'layer_wise' or 'stage_wise', but got {given['decay_type']!r}")
    if "decay_type" in given and not {"decay_rate", "layer_decay_rate"} & given.keys():
        raise ValueError(f"`decay_type`: got {given['decay_type']!r} without `decay_rate`. Add it, or remove both")
    if not isinstance(given.get("pretrained", ()), list | tuple):
        raise TypeError(f"Expected `pretrained` to be a list of parts of the model, but got {given['pretrained']!r}")
    for key, settings in given.get("custom_keys", {}).items():
        wrong = sorted(set(settings) - {"lr_mult", "decay_mult"})
        if wrong:
            raise ValueError(f"`custom_keys`: {key!r} has unknown settings {wrong}; known are lr_mult and decay_mult")
