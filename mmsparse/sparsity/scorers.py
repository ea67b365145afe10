"""Scorers: how much does each location matter? Tokens (B, N, C) in, scores (B, N) out.

A score is a logit: the probability of the slow path is its sigmoid, the slow path is preferred where it is high.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmsparse.ops import opaque, recomputed
from mmsparse.registry import MODELS

from .selection import Geometry
from .valid import Valid


class Attention(Protocol):
    """What a transformer lets scorers read of the block to come."""

    def keys(self) -> Tensor:
        """(B, N, C)."""

    def values(self) -> Tensor:
        """(B, N, C)."""

    def class_row(self, alive: Tensor | None) -> Tensor:
        """What the class token (the mean query, if there is none) gives each location, (B, N), sums to 1."""

    def column_mass(self, alive: Tensor | None) -> Tensor:
        """What each location gets from all in its window (of the block's own), (B, N); 1 on average."""


@dataclass(frozen=True, eq=False)
class Context:
    """What a scorer may look at besides the features of each unit.

    Args:
        geometry: What the units are; None where only some of them are scored.
        alive: Boolean (B, N), the units that count: real ones that no place before has dropped for good. None: all.
        valid: The units that hold a real pixel, where maps are padded. None: all do.
        attention: The attention of the block to come; None where there is none.
    """

    geometry: Geometry | None = None
    alive: Tensor | None = None
    valid: Valid | None = None
    attention: Attention | None = None


ALL = Context()


class Scorer(BaseModule):
    """Base class.

    Attributes:
        index: Number of the place it serves, set by the router; scores that read no features differ by it.
        reads_attention: Whether it reads the context's attention.
        reads_map: Whether it is given maps (B, C, H, W) instead of the features of units; where there are maps only.
        scores_any: Whether it can score some of the units without the others, where those were dropped for good.
    """

    index = 0
    reads_attention = False
    reads_map = False
    scores_any = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor, context: Context = ALL) -> Tensor:
        """Score the units, (B, N), by their features (B, N, C)."""
        raise NotImplementedError


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
        if type(hidden) is not int or hidden < 4 or hidden % 4:
            raise ValueError(
                f"LocalGlobalScorer: expected `hidden` (by default the {channels} channels) to be a multiple of 4, "
                f"but got {hidden!r}"
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

    def forward(self, tokens: Tensor, context: Context = ALL) -> Tensor:
        norm, layers = self.embed[0], [self.embed[1], *self.head[::2]]
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        return local_global(tokens, context.alive, [norm.weight, norm.bias], norm.eps, weights, biases)


@recomputed
@opaque(lambda tokens, *_: tokens.new_empty(tokens.shape[:2]))
def local_global(
    tokens: Tensor,
    alive: Tensor | None,
    norm: Sequence[Tensor],
    eps: float,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
) -> Tensor:
    """Scores (B, N) of tokens (B, N, C), by the layers of a ``LocalGlobalScorer``."""
    embedded = F.gelu(F.linear(F.layer_norm(tokens, tokens.shape[-1:], *norm, eps), weights[0], biases[0]))
    local, everywhere = embedded.chunk(2, dim=-1)
    # The first layer of the head is linear: apply its context half once per image, not once per location.
    first, half = weights[1], local.shape[-1]
    shared = F.linear(mean_of_alive(everywhere, alive), first[:, half:], biases[1])
    hidden = F.gelu(F.linear(local, first[:, :half]) + shared)
    hidden = F.gelu(F.linear(hidden, weights[2], biases[2]))
    return F.linear(hidden, weights[3], biases[3]).squeeze(-1)


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
        if type(self.hidden) is not int or self.hidden < 1:
            raise ValueError(f"MLPScorer: expected `hidden` to be a positive whole number, but got {hidden!r}")
        self.layers = nn.Sequential(
            nn.LayerNorm(channels, eps=eps), nn.Linear(channels, self.hidden), nn.GELU(), nn.Linear(self.hidden, 1)
        )
        self.init_weights()

    def forward(self, tokens: Tensor, context: Context = ALL) -> Tensor:
        return self.layers(tokens).squeeze(-1)


@MODELS.register_module()
class FeatureNormScorer(Scorer):
    """The L2 norm of the features, standardised within each image. No parameters, no training."""

    def forward(self, tokens: Tensor, context: Context = ALL) -> Tensor:
        return standardised(tokens.float().norm(dim=-1), context.alive)


@MODELS.register_module()
class KeyNormScorer(Scorer):
    """The L2 norm of the keys of the block to come, standardised within each image. No training; transformers only."""

    reads_attention = True
    scores_any = False

    def forward(self, tokens: Tensor, context: Context = ALL) -> Tensor:
        return standardised(context.attention.keys().float().norm(dim=-1), context.alive)


@MODELS.register_module()
class AttentionScorer(Scorer):
    """The attention that locations get in the block to come, in log, standardised. No training; transformers only.

    Args:
        channels: Number of channels of the tokens.
        kind: ``class``: from the class token, as in EViT (from the mean query where there is no class token).
            ``column``: from all locations of the window, as column sums of the attention matrix.
    """

    KINDS = ("class", "column")
    reads_attention = True
    scores_any = False

    def __init__(self, channels: int, kind: str = "class") -> None:
        super().__init__(channels)
        if kind not in self.KINDS:
            raise ValueError(f"AttentionScorer: expected argument `kind` to be one of {self.KINDS}, but got {kind!r}")
        self.kind = kind

    def forward(self, tokens: Tensor, context: Context = ALL) -> Tensor:
        return standardised(self.mass(context).float().clamp_min(1e-12).log(), context.alive)

    def mass(self, context: Context) -> Tensor:
        """How much attention each location gets, (B, N)."""
        read = context.attention.class_row if self.kind == "class" else context.attention.column_mass
        return read(context.alive)


@MODELS.register_module()
class RandomScorer(Scorer):
    """The honest baseline: scores that know nothing.

    In training they are drawn anew each time. In evaluation they depend on the place and the number of locations that
    count alone, so that results are reproducible and independent of batch mates and their padding.
    """

    def forward(self, tokens: Tensor, context: Context = ALL) -> Tensor:
        batch, locations, _ = tokens.shape
        if self.training:
            return torch.randn(batch, locations, device=tokens.device)
        if (alive := context.alive) is None:
            return self._draw(locations).to(tokens.device).expand(batch, locations)
        drawn = torch.cat([self._draw(count) for count in alive.sum(dim=1).tolist()])
        return drawn.new_zeros(batch, locations, device=tokens.device).masked_scatter_(alive, drawn.to(tokens.device))

    def export_objection(self, padded: bool) -> str:
        return "a RandomScorer draws numbers, which exporters cannot follow. It is a baseline: evaluate it in PyTorch"

    def _draw(self, count: int) -> Tensor:
        return torch.randn(count, generator=torch.Generator().manual_seed(self.index))


class SharedScorer(Scorer):
    """One place's share of a scorer that serves all: a linear layer first if its stage has more channels.

    Args:
        body: The scorer that all places share; the router owns it.
        channels: Number of channels of this place's tokens.
    """

    def __init__(self, body: Scorer, channels: int) -> None:
        super().__init__(channels)
        if not body.scores_any:
            raise ValueError(f"Argument `share_scorer`: a {type(body).__name__} has nothing to share. Remove it")
        self.adapt = nn.Linear(channels, body.channels) if channels != body.channels else nn.Identity()
        self._shared = (body,)  # no child: its parameters are in the state dict once
        self.init_weights()

    @property
    def body(self) -> Scorer:
        return self._shared[0]

    def forward(self, tokens: Tensor, context: Context = ALL) -> Tensor:
        return self.body(self.adapt(tokens), context)


def mean_of_alive(tokens: Tensor, alive: Tensor | None) -> Tensor:
    """Over the locations (B, N, C) that are alive: (B, 1, C)."""
    if alive is None:
        return tokens.mean(dim=1, keepdim=True)
    weight = alive.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp_min(1.0)


def standardised(values: Tensor, alive: Tensor | None = None) -> Tensor:
    """Zero mean and unit deviation within each image (B, N)."""
    values = values.unsqueeze(-1)
    centred = values - mean_of_alive(values, alive)
    return (centred / (mean_of_alive(centred.square(), alive).sqrt() + 1e-6)).squeeze(-1)
