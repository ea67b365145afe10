"""A Vision Transformer whose tokens may pause and come back, with a convolution that steadies it."""

from typing import Any

import torch
from torch import Tensor, nn

from mmsparse.models import DynamicViT
from mmsparse.models.backbones.routed_attention import Grid
from mmsparse.registry import MODELS
from mmsparse.sparsity import NewPart


class Stabiliser(nn.Conv2d, NewPart):
    """A depthwise 3x3 convolution that begins at zero, whatever others begin at."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def init_weights(self) -> None:
        self.reset_parameters()


@MODELS.register_module()
class TPCViT(DynamicViT):
    """DynamicViT with a depthwise 3x3 convolution on the embedded tokens.

    It tells each token what is around it, once, before any is paused; a paused token keeps its value to the bit. With
    ``sparsity=None`` nothing pauses, there is no convolution, and this is the stock network.

    Args:
        args: Arguments of ``DynamicViT``.
        kwargs: The same. A good start is ``sparsity=dict(scorer=dict(type="PropagationScorer"), share_scorer=True,
            places=[...])`` with every block from some depth on as a place.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stabiliser = None if self.router is None else Stabiliser(self.embed_dims)

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        x, grid = super()._embed(x)
        if self.stabiliser is None:
            return x, grid
        extra = self.num_extra_tokens
        tokens = x[:, extra:]
        around = self.stabiliser(tokens.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)
        return torch.cat([x[:, :extra], tokens + around], dim=1), grid
