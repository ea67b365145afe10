"""Are the files and folders there that a config's data sets name?"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config

COCO_KEYS = ("images", "annotations", "categories")
DOWNLOADING = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST")  # data sets that fetch themselves


def check_data(cfg: Config, *splits: str) -> None:
    """Refuse if a data set or an evaluator of a split (train, val, test) would find no files."""
    for split in splits:
        check_dataset(cfg, split)
        evaluators = cfg.get(f"{split}_evaluator")
        for evaluator in evaluators if isinstance(evaluators, list | tuple) else [evaluators]:
            if isinstance(evaluator, dict) and isinstance(evaluator.get("ann_file"), str):
                _check(evaluator["ann_file"], f"{split}_evaluator", "ann_file")


def check_dataset(cfg: Config, split: str, instead: str = "") -> None:
    """Refuse if a data set would find no files; ``instead`` says what else helps."""
    dataset, owner = (cfg.get(f"{split}_dataloader") or {}).get("dataset"), f"{split}_dataloader"
    for path in paths_of(dataset):
        _check(path, owner, "dataset.data_root", instead)
    for folder, option, ending in endings_of(dataset):
        if not any(Path(folder).rglob(f"*{ending}")):
            raise FileNotFoundError(
                f"The data of `{owner}` is not there: no file in {folder!r} ends in {ending!r}. Name their ending with "
                f"--cfg-options {owner}.dataset.{option}=..."
            )


@contextmanager
def reading(dataset: Any) -> Iterator[None]:
    """Around the building of a data set: annotations that are none are named."""
    try:
        yield
    except (KeyError, ValueError) as error:
        said, paths = str(error), ", ".join(paths_of(dataset))
        if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
            what = f"its annotations are not JSON ({said})"
        elif isinstance(error, KeyError) and said.strip("'") in COCO_KEYS:
            what = f"its annotations have no {said}; those of COCO have {', '.join(COCO_KEYS)}"
        elif "need at least one array" in said:  # mmengine packs what is left
            what = "no picture is left in it; are there annotations, and of the classes that `metainfo` names?"
        else:
            raise
        raise ValueError(f"The data set of {paths} cannot be used: {what}") from error


def _check(path: str, owner: str, option: str, instead: str = "") -> None:
    if "://" not in path and not Path(path).exists():
        raise FileNotFoundError(
            f"The data of `{owner}` is not there: {path!r} does not exist. Put it there, or name its place with "
            f"--cfg-options {owner}.{option}=...{instead}"
        )


def paths_of(dataset: Any) -> list[str]:
    """Annotations and folders of pictures, or else the root; for a wrapper those of the data sets inside."""
    if isinstance(dataset, list | tuple):
        return [path for part in dataset for path in paths_of(part)]
    if not isinstance(dataset, dict) or dataset.get("backend_args"):
        return []  # none, built already, or on a remote storage
    if "dataset" in dataset or "datasets" in dataset:
        return paths_of(dataset.get("dataset")) + paths_of(dataset.get("datasets"))
    root, prefix = dataset.get("data_root") or "", dataset.get("data_prefix")
    folders = list(prefix.values()) if isinstance(prefix, dict) else [prefix]
    parts = [part for part in (dataset.get("ann_file"), *folders) if isinstance(part, str) and part]
    downloads = str(dataset.get("type")).rpartition(".")[2] in DOWNLOADING
    return [os.path.join(root, part) for part in parts] or [root] * bool(root and not downloads)


def endings_of(dataset: Any) -> list[tuple[str, str, str]]:
    """Folders of a data set that finds its files by their ending, with the option that says it, and the ending."""
    if not isinstance(dataset, dict) or dataset.get("backend_args") or dataset.get("ann_file"):
        return []
    root, prefix = dataset.get("data_root") or "", dataset.get("data_prefix") or {}
    options = {"img_path": "img_suffix", "seg_map_path": "seg_map_suffix"}
    return [
        (os.path.join(root, prefix[key]), option, dataset[option])
        for key, option in options.items()
        if option in dataset and key in prefix
    ]
