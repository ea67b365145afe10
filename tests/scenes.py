"""Small generated data sets and configs for the tests."""

from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmsparse.datasets.scenes_io import ScenesArgs, write_scenes

ROOT = Path(__file__).parents[1]
CLASSES = Config.fromfile(ROOT / "configs/_base_/datasets/scenes_detection.py").metainfo.classes


def make(folder: Path, size: int = 96) -> Path:
    write_scenes(folder, ScenesArgs(images=12, size=size, seed=0, val=4), progress=False)
    return folder


def at(data: Path, batch_size: int = 2) -> dict[str, Any]:
    """Options that point a demo config to a data set and make it short."""
    options: dict[str, Any] = {"env_cfg.dist_cfg.backend": "gloo"}
    for split in ("train", "val", "test"):
        options[f"{split}_dataloader.dataset.data_root"] = f"{data}/"
        options[f"{split}_dataloader.num_workers"] = 0
        options[f"{split}_dataloader.persistent_workers"] = False
        options[f"{split}_dataloader.batch_size"] = batch_size
    for split in ("val", "test"):
        options[f"{split}_evaluator.ann_file"] = f"{data}/annotations/val.json"
    return options


def options(data: Path, iters: int = 4, **more: Any) -> list[str]:
    """The same as arguments of a tool, and every step logged."""
    pairs = {
        **at(data),
        "train_cfg.max_iters": iters,
        "train_cfg.val_interval": 100,
        "param_scheduler": "[]",
        "default_hooks.checkpoint.interval": 2,
        "default_hooks.checkpoint.max_keep_ckpts": 10,
        "default_hooks.logger.interval": 1,
        "log_processor.window_size": 1,
        **more,
    }
    return ["--cfg-options", *(f"{key}={value}" for key, value in pairs.items())]
