"""Config files as every part of this package reads them: fitted to this machine, and without what would be fetched."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from . import compat, env
from .data_configs import write_config

__all__ = ["merge_options", "read_config", "without_pretrained", "write_config"]

AMP_ONLY = {"loss_scale", "dtype", "use_fsdp"}  # arguments that mmengine's AmpOptimWrapper has besides


def read_config(path: str, options: dict[str, Any] | None = None, launcher: str = "none") -> Config:
    """Read a config for either stack and fit it to this machine: a program (.py), or data (.json, .yaml)."""
    env.require()
    compat.prepare()
    if "::" not in path and not Path(path).is_file():
        raise FileNotFoundError(f"Expected argument `config` to be a config file or lib::path, but got {path!r}")
    try:
        cfg = compat.load_config(path)
    except Exception as error:  # a config is a program: it can fail in any way
        raise ValueError(f"Argument `config`: cannot read {path!r}: {type(error).__name__}: {error}") from error
    if "model" not in cfg:
        raise ValueError(f"Argument `config`: {path!r} describes no `model`")
    if (library := cfg.get("default_scope")) in env.STACK:
        env.require(library)
    merge_options(cfg, options, path)
    cfg.launcher = launcher
    if not torch.cuda.is_available():
        _fit_to_cpu(cfg)
    return cfg


def merge_options(cfg: Config, options: dict[str, Any] | None, path: str) -> None:
    """Put ``--cfg-options`` into a config, in place."""
    try:
        cfg.merge_from_dict(options or {})
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"--cfg-options do not fit {path!r}: {error}") from error


def without_pretrained(cfg: Any) -> None:
    """Drop every init of a model config by a checkpoint, in place: its weights come from another or do not matter."""
    if isinstance(cfg, dict):
        init = cfg.get("init_cfg")
        if isinstance(init, dict) and "checkpoint" in init:  # not all backbones want type="Pretrained"
            cfg["init_cfg"] = None
        if isinstance(cfg.get("pretrained"), str):
            cfg["pretrained"] = None
        for value in cfg.values():
            without_pretrained(value)
    elif isinstance(cfg, list | tuple):
        for value in cfg:
            without_pretrained(value)


def _fit_to_cpu(cfg: Config) -> None:
    """What the GPU recipes name has a CPU counterpart: gloo for nccl, BN for SyncBN, single precision for AMP.

    Some of mmcv's operators know no bfloat16 on a CPU; ``--amp`` asks for it all the same.
    """
    dist_cfg = cfg.get("env_cfg", {}).get("dist_cfg")
    if dist_cfg:
        dist_cfg["backend"] = "gloo"
    _replace_sync_bn(cfg.get("model"))
    wrapper = cfg.get("optim_wrapper") or {}
    if wrapper.get("type") == "AmpOptimWrapper":
        wrapper["type"] = "OptimWrapper"
        for key in AMP_ONLY & wrapper.keys():
            del wrapper[key]


def _replace_sync_bn(cfg: Any) -> None:
    if isinstance(cfg, dict):
        if cfg.get("type") == "SyncBN":
            cfg["type"] = "BN"
        for value in cfg.values():
            _replace_sync_bn(value)
    elif isinstance(cfg, list | tuple):
        for value in cfg:
            _replace_sync_bn(value)
