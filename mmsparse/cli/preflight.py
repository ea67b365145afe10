"""What would stop a training late, found before its runner is built and has filled the screen."""

import logging
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from mmsparse.apis import find_deciders, set_keep_ratio
from mmsparse.calls import ignore_padding
from mmsparse.checkpoints import COMPUTED, check_weights, read_checkpoint, weights_of
from mmsparse.cli.building import Built, build_seeded
from mmsparse.cli.data_files import check_data
from mmsparse.engine import SparsityHook
from mmsparse.engine.optim_constructor import check_groups
from mmsparse.env import STACK
from mmsparse.registry import build_hooks
from mmsparse.sparsity import adopt, new_prefixes

FITTING = 0.1  # share of the backbone's weights; chance hits between architectures stay far below


def check_training(cfg: Config) -> Built:
    """The config's model, for the runner: it and what else the config names are fine."""
    built = build_seeded(cfg, pretrained=True)
    check_hooks(built.model, cfg.get("custom_hooks") or [])
    check_groups(cfg)
    check_data(cfg, "train", "val")
    check_start(built.model, cfg)  # may fetch a checkpoint
    return built


def check_hooks(model: nn.Module, cfgs: Sequence[Any]) -> None:
    """Do the hooks fit the model, and does one take what its decisions leave in each step?"""
    for cfg in cfgs:
        if not isinstance(cfg, dict | Hook):
            raise TypeError(f"Argument `custom_hooks`: expected dicts with a `type`, but got {cfg!r}")
    hooks = build_hooks(cfgs)
    for hook in hooks:
        if hasattr(hook, "check"):
            hook.check(model)
    if find_deciders(model) and not any(isinstance(hook, SparsityHook) for hook in hooks) and all(map(_is_stock, cfgs)):
        raise ValueError(
            "Argument `custom_hooks`: nothing teaches the scores of the model's dynamic parts. Add "
            "dict(type='mmsparse.SparsityHook'); a config that sets custom_hooks replaces its parent's list"
        )


def _is_stock(hook: Any) -> bool:
    """Whether it is of OpenMMLab or ours; one of the user's may take what decisions leave."""
    kind = hook.get("type") if isinstance(hook, dict) else type(hook)
    kind = HOOKS.get(kind) if isinstance(kind, str) else kind
    return kind is not None and kind.__module__.partition(".")[0] in ("mmsparse", *STACK)


def check_testing(cfg: Config, checkpoint: str, keep_ratio: float | Sequence[float] | None) -> Built:
    """The config's model with the weights of the checkpoint and the keep ratio, ready to be evaluated."""
    built = build_seeded(cfg)
    model = built.model
    state = weights_of(read_checkpoint(checkpoint))
    check_weights(model, state, checkpoint)
    if keep_ratio is not None:
        set_keep_ratio(model, keep_ratio)
    check_data(cfg, "test")
    load_state_dict(model, state)
    if find_deciders(model):
        ignore_padding(model)
    return built


def check_start(model: nn.Module, cfg: Config) -> None:
    """Is the checkpoint that training begins with one of this model?"""
    if cfg.resume:
        path = cfg.load_from
        content = read_checkpoint(path, "resume")
        lacking = [key for key in ("meta", "state_dict", "message_hub") if key not in content]
        if lacking:
            raise ValueError(
                f"Argument `resume`: {path} is not a training's checkpoint, it has no {' and no '.join(lacking)}. "
                "To start a new training from its weights use --load-from"
            )
        check_weights(model, weights_of(content), path, "resume")
        check_saved_groups(model, cfg, content.get("optimizer"), path)
    elif cfg.load_from:
        check_backbone(model, cfg.load_from)


def check_saved_groups(model: nn.Module, cfg: Config, saved: dict[str, Any] | None, path: str) -> None:
    """An optimizer's state goes on only in the parameter groups that it was saved in."""
    if "optimizer" not in cfg.optim_wrapper or "param_groups" not in (saved or {}):
        return  # several optimizers, or nothing that was saved
    logging.disable()  # a constructor may list all its groups, which it will do again
    try:
        own = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    finally:
        logging.disable(logging.NOTSET)
    then, now = ([len(group["params"]) for group in groups] for groups in (saved["param_groups"], own))
    if then != now:
        raise ValueError(
            f"Argument `resume`: {path} was trained with other parameter groups: {len(then)} of {sum(then)} "
            f"parameters in all, now {len(now)} of {sum(now)}. Resume with the `optim_wrapper` it was trained with, "
            "or start a new training from its weights with --load-from"
        )


def check_backbone(model: nn.Module, path: str) -> None:
    """Training may begin with another task's head, even with a part of a backbone, but not with nothing of it.

    mmengine loads what fits and trains on from random weights, however little that is.
    """
    state = weights_of(read_checkpoint(path, "load_from"))
    adopt(model, state)  # before there is an optimizer
    own = {key: value for key, value in model.state_dict().items() if not key.endswith(COMPUTED)}
    new = new_prefixes(model)
    backbone = {k: v for k, v in own.items() if k.startswith("backbone.") and not k.startswith(new)} or own
    missing = [key for key in backbone if key not in state]
    misshaped = [key for key, value in backbone.items() if key in state and state[key].shape != value.shape]
    fitting = len(backbone) - len(missing) - len(misshaped)
    if fitting < FITTING * len(backbone):
        raise RuntimeError(
            f"Argument `load_from`: {path} does not fit this model: of the {len(backbone)} keys of its backbone "
            f"{len(missing)} are missing (such as {missing[:3]}), {len(misshaped)} have other shapes (such as "
            f"{misshaped[:3]}). Use a checkpoint of this backbone or of its dense twin; heads may differ"
        )
