"""Are the files and folders there that a config's data sets name?"""

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config

DOWNLOADING = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST")  # data sets that fetch themselves


def check_data(cfg: Config, *splits: str, instead: str = "") -> None:
    """Refuse if something of a split (train, val, test) is missing; ``instead`` says what else helps."""
    for split in splits:
        for path in data_paths(cfg, split):
            if "://" not in path and not Path(path).exists():
                raise FileNotFoundError(
                    f"The data of `{split}_dataloader` is not there: {path!r} does not exist. Put it there, or name "
                    f"its place with --cfg-options {split}_dataloader.dataset.data_root=...{instead}"
                )


def data_paths(cfg: Config, split: str) -> list[str]:
    paths = _of_dataset((cfg.get(f"{split}_dataloader") or {}).get("dataset"))
    evaluators = cfg.get(f"{split}_evaluator")
    for evaluator in evaluators if isinstance(evaluators, list | tuple) else [evaluators]:
        if isinstance(evaluator, dict) and isinstance(evaluator.get("ann_file"), str):
            paths.append(evaluator["ann_file"])
    return paths


def _of_dataset(dataset: Any) -> list[str]:
    """Annotations and folders of pictures, or else the root; for a wrapper those of the data sets inside."""
    if isinstance(dataset, list | tuple):
        return [path for part in dataset for path in _of_dataset(part)]
    if not isinstance(dataset, dict) or dataset.get("backend_args"):
        return []  # none, built already, or on a remote storage
    if "dataset" in dataset or "datasets" in dataset:
        return _of_dataset(dataset.get("dataset")) + _of_dataset(dataset.get("datasets"))
    root, prefix = dataset.get("data_root") or "", dataset.get("data_prefix")
    folders = list(prefix.values()) if isinstance(prefix, dict) else [prefix]
    parts = [part for part in (dataset.get("ann_file"), *folders) if isinstance(part, str) and part]
    downloads = str(dataset.get("type")).rpartition(".")[2] in DOWNLOADING
    return [os.path.join(root, part) for part in parts] or [root] * bool(root and not downloads)
