"""Networks with frozen weights in double precision, and a few numbers that stand for all that they give.

Every number comes from the raw stream of a PCG64, which numpy promises to keep: weights, pictures and projections are
the same on every machine and with every version of torch.
"""

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

SIZES = [(128, 160), (100, 90)]  # of the pictures; the first one is the batch's
SUMS = 12  # how many numbers of a tensor are kept, besides the mean and the largest magnitude
HEADS = ("head", "decode_head", "auxiliary_head", "bbox_head", "rpn_head")


def uniform(name: str, *shape: int) -> np.ndarray:
    """Numbers of mean 0 and variance 1."""
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(math.prod(shape))
    return (((raw >> np.uint64(11)) * 2.0**-52 - 1.0) * math.sqrt(3)).reshape(shape)


def freeze(model: nn.Module) -> nn.Module:
    """Fill in all that is learned, and drop nothing at random.

    Activations stay near one, and no term is hidden behind a zero or a one.
    """
    model.double()
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(_values(name, parameter)))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.from_numpy(0.2 * uniform(name, *buffer.shape)))
            if name.endswith("running_var"):
                buffer.copy_(torch.from_numpy(1.0 + 0.2 * uniform(name, *buffer.shape)))
    return model


def _values(name: str, parameter: Tensor) -> np.ndarray:
    values = uniform(name, *parameter.shape)
    if parameter.dim() < 2:  # norms, scales and biases
        return np.asarray(0.2 * values + (1.0 if name.endswith(("weight", "gamma", "scale")) else 0.0))
    if parameter.dim() == 3:  # tokens and positions
        return 0.5 * values
    return values * parameter[0].numel() ** -0.5


class Raw(nn.Module):
    """A model up to its raw outputs: of the backbone, the neck, and all heads."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def backbone(self) -> nn.Module:
        return self.model.backbone

    def forward(self, inputs: Tensor, data_samples: list[Any] | None = None, mode: str = "tensor") -> dict[str, Any]:
        if mode == "loss":
            return self.model(inputs, data_samples, mode="loss")
        found: dict[str, Any] = {}
        handle = self.backbone.register_forward_hook(lambda _, __, maps: found.update(backbone=maps))
        maps = self.model.extract_feat(inputs)
        handle.remove()
        if getattr(self.model, "neck", None) is not None:
            found["neck"] = maps
        if hasattr(self.model, "encoder"):
            found["bbox_head"] = self.model.bbox_head(**self.model.forward_transformer(maps, data_samples))
            return found
        if hasattr(self.model, "panoptic_head"):
            return {**found, "panoptic_head": self.model.panoptic_head(maps, data_samples)}
        for name in HEADS:
            if getattr(self.model, name, None) is not None:
                found[name] = getattr(self.model, name)(maps)
        if getattr(self.model, "roi_head", None) is not None:
            found["roi_head"] = self.model.roi_head(maps, proposals(inputs), data_samples)
        return found


def pictures() -> Tensor:
    """A batch (B, 3, H, W) of structured noise, of which the second picture is padded with zeros."""
    batch = np.zeros((len(SIZES), 3, *SIZES[0]))
    for i, (picture, size) in enumerate(zip(batch, SIZES, strict=True)):
        coarse = uniform(f"view {i}", 3, *(-(-side // 16) for side in size)).repeat(16, axis=1).repeat(16, axis=2)
        fine = uniform(f"detail {i}", 3, *size)
        picture[:, : size[0], : size[1]] = coarse[:, : size[0], : size[1]] + (0.3 + 0.4 * i) * fine
    return torch.from_numpy(batch)


def metainfo(size: tuple[int, int]) -> dict[str, Any]:
    """Of a picture in the batch, as data preprocessors leave it."""
    meta = dict(img_shape=size, ori_shape=size, pad_shape=SIZES[0], batch_input_shape=SIZES[0])
    return dict(**meta, scale_factor=(1.0, 1.0))


def proposals(inputs: Tensor) -> list[SimpleNamespace]:
    """Three boxes in each picture, of sizes for several levels."""
    boxes = [[4.5, 3.25, 60.75, 50.5], [20.0, 30.5, 40.25, 45.75], [1.0, 2.0, 88.5, 97.25]]
    return [SimpleNamespace(bboxes=inputs.new_tensor(boxes) + i) for i in range(len(inputs))]


def tensors(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested tuples, lists and dicts, by where they lie."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, dict):
        for key, part in tree.items():
            yield from tensors(part, f"{name}.{key}".lstrip("."))
    elif isinstance(tree, list | tuple):
        for i, part in enumerate(tree):
            yield from tensors(part, f"{name}.{i}")


def digest(x: Tensor) -> np.ndarray:
    """A few numbers to which every element of a tensor adds: random sums, mean magnitude and the largest."""
    flat = x.detach().double().contiguous().flatten().numpy()
    parts = np.zeros(-(-len(flat) // SUMS) * SUMS)
    parts[: len(flat)] = flat * _signs(len(flat))
    sums = parts.reshape(-1, SUMS).sum(axis=0) / math.sqrt(max(len(flat) / SUMS, 1.0))
    return np.array([*sums, np.abs(flat).mean(), np.abs(flat).max()])


@lru_cache(maxsize=256)
def _signs(count: int) -> np.ndarray:
    return uniform(f"projection {count}", count)


@contextmanager
def watch_margins() -> Iterator[list[float]]:
    """Collect how far the last chosen lies above the first that is not, of all top-k inside a with-block.

    In units of the spread of what may be chosen; what is buried may not.
    """
    margins: list[float] = []
    topk = Tensor.topk

    def watched(self: Tensor, k: int, dim: int = -1, *args: Any, **kwargs: Any) -> Any:
        values = self.detach().double().movedim(dim, -1).sort(dim=-1, descending=True).values
        if 0 < k < values.shape[-1]:
            above, below = values[..., k - 1].flatten(), values[..., k].flatten()
            spread = (values[..., 0].flatten() - below).clamp_min(1e-30)
            real = below > torch.finfo(torch.float32).min / 2
            margins.extend(((above - below) / spread)[real].tolist())
        return topk(self, k, dim, *args, **kwargs)

    with patch.object(Tensor, "topk", watched):
        yield margins
