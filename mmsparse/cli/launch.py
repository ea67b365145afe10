"""From a config file to a model, a runner or a loader: what every tool does first, so that mistakes surface early."""

import argparse
import copy
import gc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config, DictAction
from mmengine.dataset import BaseDataset
from mmengine.dist import broadcast_object_list
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, MODELS, RUNNERS, init_default_scope
from mmengine.runner import Runner, find_latest_checkpoint, set_random_seed
from torch import Tensor, nn

from mmsparse.apis import find_deciders, set_keep_ratio
from mmsparse.calls import ignore_padding
from mmsparse.checkpoints import load_weights
from mmsparse.cli.data_files import check_dataset
from mmsparse.configs import without_pretrained


def add_config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="key=value pairs merged into the config")


def add_launcher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def add_keep_ratio(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep-ratio", type=float, nargs="+", help="another budget: one number, or one per place")


def read_keep_ratio(args: argparse.Namespace) -> float | list[float] | None:
    """One number stays a number, so that the paper's rule expands it."""
    return args.keep_ratio[0] if args.keep_ratio and len(args.keep_ratio) == 1 else args.keep_ratio


class Built(NamedTuple):
    """A model that was built to be checked, before its runner."""

    model: nn.Module
    seed: int  # of its random weights
    random: Tensor  # the state of torch's random numbers after it


def build_runner(cfg: Config, built: Built | None = None) -> Runner:
    """The config's runner, of a model that is there already or of one more."""
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

        def set_randomness(self, seed: int | None, **more: Any) -> None:
            drawn = [built.seed]
            broadcast_object_list(drawn)  # the wrapper of several processes takes the first one's weights, too
            super().set_randomness(drawn[0] if seed is None else seed, **more)

    return Ready


def close_process_group() -> None:
    """The last call of a tool, when it holds no runner any more.

    A gloo thread that still drops the last broadcast's tensors would abort an exiting process. The group's threads
    end with the group, and that with the last model that was wrapped for it.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        gc.collect()
        torch.distributed.destroy_process_group()


def prepare_work_dir(cfg: Config, work_dir: str | None, config_path: str) -> None:
    """Command line, then config, then ./work_dirs/<name>."""
    cfg.work_dir = work_dir or cfg.get("work_dir") or str(Path("work_dirs") / Path(config_path).stem)
    check_writable(cfg.work_dir, "work_dir")


def check_writable(folder: str | Path, argument: str) -> None:
    """Refuse a folder that is not there and cannot be made, or cannot be written to."""
    folder = Path(folder).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise PermissionError(f"Argument `{argument}`: cannot write to the folder {str(folder)!r}. Choose another")


def choose_start(cfg: Config, resume: str | None, load_from: str | None) -> None:
    """Where a training begins: ``resume`` is a checkpoint, 'auto' for the latest of the work dir, or None."""
    cfg.load_from = load_from or cfg.get("load_from")
    cfg.resume = resume is not None
    if resume == "auto" and find_latest_checkpoint(cfg.work_dir):
        cfg.load_from = None  # mmengine resumes from that
    elif resume == "auto":
        cfg.resume = False  # the first start of a training that may be stopped
    elif resume is not None:
        cfg.load_from = resume


def build_model(
    cfg: Config, checkpoint: str | None = None, keep_ratio: float | Sequence[float] | None = None
) -> nn.Module:
    """The config's model in evaluation mode on the best device, without fetching initial weights."""
    model = build_plain(cfg)
    model.cfg = cfg
    if checkpoint:
        load_weights(model, checkpoint)
    else:
        _init_weights(model)
    if keep_ratio is not None:
        set_keep_ratio(model, keep_ratio)
    if find_deciders(model):
        ignore_padding(model)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _init_weights(model: nn.Module) -> None:
    """As for a training: a detector that believes in nothing leaves its post-processing as little to sort as ever."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("WARNING")  # it would name every parameter
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)


def build_seeded(cfg: Config, pretrained: bool = False) -> Built:
    """The config's model with the random weights of its seed, or of one that is drawn."""
    seed = set_random_seed(cfg.get("randomness", {}).get("seed"))
    return Built(build_plain(cfg, pretrained), seed, torch.get_rng_state())


def build_plain(cfg: Config, pretrained: bool = False) -> nn.Module:
    """The config's model with random weights; ``pretrained``: ``init_weights`` may fetch others."""
    init_default_scope(cfg.get("default_scope", "mmengine"))
    model_cfg = copy.deepcopy(cfg.model)
    if cfg.get("data_preprocessor") is not None:  # where mmpretrain's configs have it; the runner does the same
        model_cfg.setdefault("data_preprocessor", copy.deepcopy(cfg.data_preprocessor))
    if not pretrained:
        without_pretrained(model_cfg)
    return MODELS.build(model_cfg)


def read_pictures(cfg: Config, count: int, instead: str = "") -> list[dict[str, Any]]:
    """The first pictures of the test set, through its own pipeline; ``instead`` says what helps if there are none."""
    dataset = read_test_set(cfg, instead)
    return [dataset[i] for i in range(min(count, len(dataset)))]


def read_test_set(cfg: Config, instead: str = "") -> BaseDataset:
    check_dataset(cfg, "test", instead)
    init_default_scope(cfg.get("default_scope", "mmengine"))
    return DATASETS.build(cfg.test_dataloader.dataset)


def random_pictures(cfg: Config, count: int, shape: tuple[int, int]) -> list[dict[str, Any]]:
    """Noise with the metadata that the scope's model wants; exact-count budgets cost the same on any picture."""
    height, width = shape
    meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0))
    generator = torch.Generator().manual_seed(0)
    pictures = []
    for _ in range(count):
        sample = _sample_class(cfg.get("default_scope", ""))(metainfo=meta)
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        pictures.append(dict(inputs=image, data_samples=sample))
    return pictures


def _sample_class(scope: str) -> type:
    if scope == "mmdet":
        from mmdet.structures import DetDataSample as Sample
    elif scope == "mmseg":
        from mmseg.structures import SegDataSample as Sample
    elif scope == "mmpretrain":
        from mmpretrain.structures import DataSample as Sample
    else:
        raise ValueError(f"Expected `default_scope` to be one of mmdet, mmseg, mmpretrain, but got {scope!r}")
    return Sample


def use_amp(cfg: Config) -> None:
    """Mixed precision on this machine's best device."""
    if torch.cuda.is_available():
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    else:
        cfg.optim_wrapper.type = "mmsparse.CpuAmpOptimWrapper"
