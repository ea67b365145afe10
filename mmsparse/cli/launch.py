"""From a config to its run: where it writes, where it begins, its runner, its group of processes."""

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import broadcast_object_list
from mmengine.hooks import CheckpointHook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from mmsparse.cli.building import Built
from mmsparse.cli.data_files import reading
from mmsparse.engine import latest_checkpoint
from mmsparse.files import check_room


def prepare_work_dir(cfg: Config, work_dir: str | None, config_path: str) -> None:
    """Command line, then config, then ./work_dirs/<name>."""
    cfg.work_dir = work_dir or cfg.get("work_dir") or str(Path("work_dirs") / Path(config_path).stem)
    check_writable(cfg.work_dir, "work_dir")


def check_writable(folder: str | Path, argument: str) -> None:
    """Refuse a folder that is not there and cannot be made, or cannot be written to, or has no room."""
    folder = Path(folder).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise PermissionError(f"Argument `{argument}`: cannot write to the folder {str(folder)!r}. Choose another")
    try:
        check_room(there)
    except OSError as error:
        raise OSError(
            f"Argument `{argument}`: cannot write to the folder {str(folder)!r} ({error.strerror}). Choose another"
        ) from error


def choose_start(cfg: Config, resume: str | None, load_from: str | None) -> None:
    """Where a training begins: ``resume`` is a checkpoint, 'auto' for the latest of the work dir, or None.

    Without a latest one, 'auto' is the first start of a training that may be stopped.
    """
    found = latest_checkpoint(cfg.work_dir) if resume == "auto" else resume
    cfg.load_from = found or load_from or cfg.get("load_from")
    cfg.resume = found is not None


def share_of(shard: str | None) -> tuple[int, int]:
    """Which share of the work is this process's, of how many: as it was told, or by what started it.

    Each process of torchrun or Slurm on a machine takes another of its GPUs.
    """
    names = [("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")]
    told = next((found for found in ([os.environ.get(name) for name in each] for each in names) if found[0]), None)
    if told and torch.cuda.is_available():
        torch.cuda.set_device(int(told[2] or 0) % torch.cuda.device_count())
    given = shard or ("/".join(told[:2]) if told else "0/1")
    number, _, total = given.partition("/")
    if not (number.isdecimal() and total.isdecimal() and int(number) < int(total)):
        raise ValueError(
            f"Expected argument `--shard` to be I/N with I from 0 to N - 1, such as 0/4, but got {given!r}"
        )
    return int(number), int(total)


def use_amp(cfg: Config) -> None:
    """Mixed precision on this machine's best device."""
    if torch.cuda.is_available():
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    else:
        cfg.optim_wrapper.type = "mmsparse.CpuAmpOptimWrapper"


def build_runner(cfg: Config, built: Built | None = None) -> Runner:
    """The config's runner, of a model that is there already or of one more; its checkpoints are whole at any moment."""
    saving = cfg.setdefault("default_hooks", {}).setdefault("checkpoint", dict(type="CheckpointHook"))
    if saving and saving.get("type") in ("CheckpointHook", CheckpointHook):
        saving["type"] = "mmsparse.WholeCheckpointHook"
    if cfg.launcher == "pytorch" and not torch.cuda.is_available():
        # mmengine would ask for a GPU first, and its older versions would put the wrapper on one
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        unused = cfg.get("find_unused_parameters", False)
        wrapper = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)
        cfg.setdefault("model_wrapper_cfg", dict(**wrapper, find_unused_parameters=unused))
    kind = RUNNERS.get(cfg.get("runner_type", "Runner"))
    return (kind if built is None else _runner_of(kind, built)).from_cfg(cfg)


def _runner_of(kind: type[Runner], built: Built) -> type[Runner]:
    """A kind of runner that takes what is built; without a seed in the config, that one's is the run's."""

    class Ready(kind):
        def build_model(self, model: Any) -> nn.Module:
            torch.set_rng_state(built.random)  # what is drawn next is what follows a build
            return built.model

        @staticmethod
        def build_dataloader(dataloader: Any, *args: Any, **more: Any) -> Any:
            with reading(dataloader.get("dataset") if isinstance(dataloader, dict) else None):
                return kind.build_dataloader(dataloader, *args, **more)

        def set_randomness(self, seed: int | None, **more: Any) -> None:
            drawn = [built.seed]
            broadcast_object_list(drawn)  # the wrapper of several processes takes the first one's weights, too
            super().set_randomness(drawn[0] if seed is None else seed, **more)

    return Ready


@contextmanager
def quiet() -> Iterator[None]:
    """Runners inside a with-block print nothing: what they log is in their folders."""
    saved, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(null)


def close_process_group() -> None:
    """The last call of a tool, when it holds no runner any more.

    A gloo thread that still drops the last broadcast's tensors would abort an exiting process. The group's threads
    end with the group, and that with the last model that was wrapped for it.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        gc.collect()
        torch.distributed.destroy_process_group()
