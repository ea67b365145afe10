"""What the locations get that are not worth the slow path. Rows (R, C) in, the residual branch (R, C) out."""

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmsparse.ops import NormLinear
from mmsparse.registry import MODELS


class FastPath(BaseModule):
    """Base class."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, rows: Tensor) -> Tensor:
        raise NotImplementedError


@MODELS.register_module()
class LinearFastPath(FastPath):
    """The paper's: LayerNorm and one linear layer.

    It starts at zero, so that an untrained fast path passes its locations on unchanged. The paper reaches the same
    with a layer scale of 1e-6; a scale behind a linear layer is part of its weights.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels)
        self.norm = nn.LayerNorm(channels, eps=eps)
        self.linear = nn.Linear(channels, channels)
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, rows: Tensor) -> Tensor:
        return self.linear(self.norm(rows))

    def tensors(self) -> NormLinear:
        """What it computes."""
        return NormLinear((self.norm.weight, self.norm.bias), self.norm.eps, (self.linear.weight, self.linear.bias))


@MODELS.register_module()
class IdentityFastPath(FastPath):
    """The locations keep their value: the residual branch adds nothing."""

    def forward(self, rows: Tensor) -> Tensor:
        return torch.zeros_like(rows)
