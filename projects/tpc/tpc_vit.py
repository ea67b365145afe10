"""A Vision Transformer whose tokens may pause and come back, with a convolution that steadies it."""

from typing import Any

import torch
from torch import Tensor, nn

from mmsparse.models import DynamicViT
from mmsparse.models.backbones.routed_attention import Grid
from mmsparse.registry import MODELS


@MODELS.register_module()
class TPCViT(DynamicViT):
    """DynamicViT with a depthwise 3x3 convolution on the embedded tokens, which begins at zero.

    It tells each token what is around it, once, before any is paused; a paused token keeps its value to the bit. With
    ``sparsity=None`` nothing pauses, there is no convolution, and this is the stock network.

    Args:
        args: Arguments of ``DynamicViT``.
        kwargs: The same. A good start is ``sparsity=dict(scorer=dict(type="PropagationScorer"), share_scorer=True,
            places=[...])`` with every block from some depth on as a place.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stabiliser: nn.Conv2d | None = None
        if self.router is not None:
            self.stabiliser = nn.Conv2d(self.embed_dims, self.embed_dims, 3, padding=1, groups=self.embed_dims)
            self._silence()

    def init_weights(self) -> None:
        super().init_weights()
        self._silence()

    def _silence(self) -> None:
        if self.stabiliser is not None:
            nn.init.zeros_(self.stabiliser.weight)
            nn.init.zeros_(self.stabiliser.bias)

    def macs(self, height: int, width: int) -> int:
        if self.stabiliser is None:
            return super().macs(height, width)
        stride = self.patch_embed.projection.stride[0]
        return super().macs(height, width) + -(-height // stride) * -(-width // stride) * self.stabiliser.weight.numel()

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        x, grid = super()._embed(x)
        if self.stabiliser is None:
            return x, grid
        extra = self.num_extra_tokens
        tokens = x[:, extra:]
        around = self.stabiliser(tokens.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)
        return torch.cat([x[:, :extra], tokens + around], dim=1), grid
