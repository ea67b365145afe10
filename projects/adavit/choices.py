"""What each picture needs: which heads and which of the two layers of a block, by its class token; which tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmengine.model import ModuleDict
from torch import Tensor, nn

from mmsparse.registry import MODELS
from mmsparse.sparsity import Context, Dial, Scorer, Tunable, check_keep_ratio
from mmsparse.sparsity.scorers import ALL

USED = 3.0  # where logits begin: of a network that is trained already, nearly all is used at first


@dataclass(frozen=True, eq=False)
class Gates:
    """Of one block and each picture: 1 is used, 0 is skipped; with gradients while training.

    Args:
        heads: (B, heads).
        layers: (B, 2), attention and feed-forward network.
    """

    heads: Tensor
    layers: Tensor


class Choice(Dial):
    """Which of a few parts of a block each picture uses; its budget is the share of them that training aims at.

    Args:
        name: How logs call it.
        channels: Of the class token.
        parts: How many there are to choose among.
        tau: Temperature of the gradient.
    """

    def __init__(self, name: str, channels: int, parts: int, tau: float) -> None:
        super().__init__(name)
        self.linear = nn.Linear(channels, parts)
        self.tau = tau
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.constant_(self.linear.bias, USED)

    def forward(self, feature: Tensor) -> Tensor:
        """Gates (B, parts) by class tokens (B, C): in training drawn, in evaluation those more probable than not."""
        logits = self.linear(feature).float()
        if self.training:
            logits = logits + torch.logit(torch.rand_like(logits).clamp(1e-6, 1 - 1e-6))  # of two Gumbel draws
        used = (logits > 0).float()
        if not self.training:
            return used
        soft = torch.sigmoid(logits / self.tau)
        return used + (soft - soft.detach())


class Policy(Tunable):
    """The choices of all blocks from one on.

    Args:
        blocks: Their numbers.
        channels: Of the class token.
        num_heads: Of each block's attention.
        heads: Share of the heads that training aims at; 1 uses all.
        layers: The same of attentions and feed-forward networks.
        tau: Temperature of the gradient.
    """

    def __init__(
        self, blocks: Sequence[int], channels: int, num_heads: int, heads: float, layers: float, tau: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.heads = ModuleDict({str(i): Choice(f"heads/b{i}", channels, num_heads, tau) for i in blocks})
        self.layers = ModuleDict({str(i): Choice(f"layers/b{i}", channels, 2, tau) for i in blocks})
        self.set_keep_ratio([heads] * len(blocks) + [layers] * len(blocks))

    @property
    def dials(self) -> list[Choice]:
        return [*self.heads.values(), *self.layers.values()]

    def expand(self, keep_ratio: float | Sequence[float]) -> Sequence[float]:
        if not isinstance(keep_ratio, Sequence) or isinstance(keep_ratio, str):
            return (check_keep_ratio(keep_ratio),) * len(self.dials)
        if len(keep_ratio) != len(self.dials):
            raise ValueError(
                f"Expected argument `keep_ratio` to be one number or one for each of the {len(self.dials)} choices "
                f"(of heads, then of layers), but got {len(keep_ratio)} numbers: {list(keep_ratio)}"
            )
        return tuple(check_keep_ratio(ratio) for ratio in keep_ratio)

    def choose(self, i: int, feature: Tensor) -> Gates | None:
        """For a block and class tokens (B, C); None: all of it is used by all."""
        made = [
            table[str(i)](feature) if str(i) in table and table[str(i)].keep_ratio < 1.0 else None
            for table in (self.heads, self.layers)
        ]
        if all(gates is None for gates in made):
            return None
        every = [feature.new_ones(len(feature), parts, dtype=torch.float32) for parts in (self.num_heads, 2)]
        return Gates(*(all_used if gates is None else gates for gates, all_used in zip(made, every, strict=True)))


@MODELS.register_module()
class LinearScorer(Scorer):
    """One linear layer on each normed token by itself."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels)
        self.norm = nn.LayerNorm(channels, eps=eps)
        self.linear = nn.Linear(channels, 1)
        self.init_weights()

    def forward(self, tokens: Tensor, context: Context = ALL) -> Tensor:
        return self.linear(self.norm(tokens)).squeeze(-1)
