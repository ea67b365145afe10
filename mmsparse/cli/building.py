"""From a config to its model, and to the pictures that it is given."""

import copy
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import set_random_seed
from torch import Tensor, nn

from mmsparse.apis import find_deciders, set_keep_ratio
from mmsparse.calls import ignore_padding, prepare_batch
from mmsparse.checkpoints import load_weights
from mmsparse.cli.data_files import check_dataset, reading
from mmsparse.configs import without_pretrained


class Built(NamedTuple):
    """A model that was built to be checked, before its runner."""

    model: nn.Module
    seed: int  # of its random weights
    random: Tensor  # the state of torch's random numbers after it


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


def machine() -> str:
    """Where models run."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


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
    try:
        return MODELS.build(model_cfg)
    except KeyError as error:  # what the registries say of a name that they lack
        if not (unknown := re.search(r"(\S+) is not in the (\S+) registry", str(error))):
            raise
        name, registry = unknown[1].strip("'\""), unknown[2]
        raise ValueError(
            f"Argument `config`: there is no {name} in the registry {registry}. Is it spelled so, and is "
            f"default_scope={cfg.get('default_scope')!r} the library that has it?"
        ) from error


def read_pictures(cfg: Config, count: int, instead: str = "") -> list[dict[str, Any]]:
    """The first pictures of the test set, through its own pipeline; ``instead`` says what helps if there are none."""
    dataset = read_test_set(cfg, instead)
    return [dataset[i] for i in range(min(count, len(dataset)))]


def read_training_pictures(cfg: Config, count: int) -> list[dict[str, Any]]:
    """Pictures from all over the training set, through the pipeline of the test set."""
    check_dataset(cfg, "train")
    init_default_scope(cfg.get("default_scope", "mmengine"))
    wanted = cfg.train_dataloader.dataset
    while "dataset" in wanted or "datasets" in wanted:  # of a wrapper, the first one inside
        wanted = wanted.dataset if "dataset" in wanted else wanted.datasets[0]
    dataset = DATASETS.build(dict(wanted, pipeline=cfg.test_dataloader.dataset.pipeline, test_mode=True))
    step = max(1, len(dataset) // count)
    return [dataset[i * step] for i in range(min(count, len(dataset)))]


def calibration_pictures(cfg: Config, model: nn.Module, count: int, raw: bool = False) -> list[Tensor]:
    """Training pictures (C, H, W), as a call of the exported network has them; ``raw``: as its preprocessor does."""
    pictures = read_training_pictures(cfg, count)
    if raw:
        return [picture["inputs"].float() for picture in pictures]
    sizes = [picture["inputs"].shape[-2:] for picture in pictures]
    batches = [prepare_batch(model, [picture])["inputs"] for picture in pictures]
    return [batch[0, :, :height, :width] for batch, (height, width) in zip(batches, sizes, strict=True)]


def read_test_set(cfg: Config, instead: str = "") -> BaseDataset:
    check_dataset(cfg, "test", instead)
    init_default_scope(cfg.get("default_scope", "mmengine"))
    with reading(cfg.test_dataloader.dataset):
        return DATASETS.build(cfg.test_dataloader.dataset)


def meta_of(cfg: Config) -> dict[str, Any]:
    """What the test set says of its classes, by its kind and its config; nothing is read from disk."""
    dataset, scope = cfg.get("test_dataloader", {}).get("dataset", {}), cfg.get("default_scope", "mmengine")
    init_default_scope(scope)
    with DATASETS.switch_scope_and_registry(scope) as registry:
        kind = registry.get(dataset.get("type", ""))
    return {**getattr(kind, "METAINFO", {}), **dataset.get("metainfo", {})}


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
