"""Scorers: how much does each location matter? Tokens (B, N, C) in, scores (B, N) out.

A score is a logit: the probability of the slow path is its sigmoid, the slow path is preferred where it is high.
"""

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmsparse.registry import MODELS


class Scorer(BaseModule):
    """Base class. ``macs(n)`` is the arithmetic for the n locations of one map.

    Attributes:
        index: Number of the place it serves, set by the router; scores that read no features differ by it.
    """

    index = 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:  # (B, N, C) -> (B, N)
        raise NotImplementedError

    def macs(self, locations: int) -> int:
        return 0


@MODELS.register_module()
class LocalGlobalScorer(Scorer):
    """The paper's predictor: half of the channels stay local, the mean of the other half is everyone's context.

    The paper's last layer gives two log-probabilities; only their difference matters, so one output is kept.

    Args:
        channels: Number of channels of the tokens.
        hidden: Width of the embedding, as many as the tokens have if not given (the paper's). A quarter of them makes
            a scorer of a fifth of the arithmetic.
    """

    def __init__(self, channels: int, hidden: int | None = None, eps: float = 1e-6) -> None:
        super().__init__(channels)
        self.hidden = hidden = channels if hidden is None else hidden
        if hidden < 4 or hidden % 4:
            raise ValueError(
                f"LocalGlobalScorer: expected `hidden` (by default the {channels} channels) to be a multiple of 4, "
                f"but got {hidden}"
            )
        self.embed = nn.Sequential(nn.LayerNorm(channels, eps=eps), nn.Linear(channels, hidden), nn.GELU())
        self.head = nn.Sequential(
            nn.Linear(hidden, hidden // 2),
            nn.GELU(),
            nn.Linear(hidden // 2, hidden // 4),
            nn.GELU(),
            nn.Linear(hidden // 4, 1),
        )
        self.init_weights()

    def forward(self, tokens: Tensor) -> Tensor:
        local, context = self.embed(tokens).chunk(2, dim=-1)
        # The first layer of the head is linear: apply its context half once per image, not once per location.
        first, half = self.head[0], self.hidden // 2
        shared = nn.functional.linear(context.mean(dim=1, keepdim=True), first.weight[:, half:], first.bias)
        hidden = nn.functional.linear(local, first.weight[:, :half]) + shared
        return self.head[1:](hidden).squeeze(-1)

    def macs(self, locations: int) -> int:
        h = self.hidden
        per_location = self.channels * h + (h // 2) * (h // 2) + (h // 2) * (h // 4) + h // 4
        return locations * per_location + (h // 2) * (h // 2)


@MODELS.register_module()
class MLPScorer(Scorer):
    """Two linear layers on each location by itself, as in SViT: no context, little arithmetic.

    Args:
        channels: Number of channels of the tokens.
        hidden: Width of the layer between, a quarter of the channels if not given.
    """

    def __init__(self, channels: int, hidden: int | None = None, eps: float = 1e-6) -> None:
        super().__init__(channels)
        self.hidden = max(channels // 4, 1) if hidden is None else hidden
        if self.hidden < 1:
            raise ValueError(f"MLPScorer: expected `hidden` to be positive, but got {hidden}")
        self.layers = nn.Sequential(
            nn.LayerNorm(channels, eps=eps), nn.Linear(channels, self.hidden), nn.GELU(), nn.Linear(self.hidden, 1)
        )
        self.init_weights()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(tokens).squeeze(-1)

    def macs(self, locations: int) -> int:
        return locations * (self.channels + 1) * self.hidden


@MODELS.register_module()
class FeatureNormScorer(Scorer):
    """The L2 norm of the features, standardised within each image. No parameters, no training."""

    def forward(self, tokens: Tensor) -> Tensor:
        norm = tokens.float().norm(dim=-1)
        return (norm - norm.mean(dim=1, keepdim=True)) / (norm.std(dim=1, keepdim=True, correction=0) + 1e-6)


@MODELS.register_module()
class RandomScorer(Scorer):
    """The honest baseline: scores that know nothing.

    In training they are drawn anew each time. In evaluation they depend on the number of locations and the place
    alone, so that results are reproducible and independent of batch mates.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        batch, locations, _ = tokens.shape
        if self.training:
            return torch.randn(batch, locations, device=tokens.device)
        generator = torch.Generator().manual_seed(self.index)
        return torch.randn(locations, generator=generator).to(tokens.device).expand(batch, locations)
