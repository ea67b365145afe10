"""Which tokens a layer may leave out: by probabilities to pause and to restart, or by the class token's attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsparse.registry import MODELS
from mmsparse.sparsity import Context, Scorer
from mmsparse.sparsity.scorers import mean_of_alive


@MODELS.register_module()
class PropagationScorer(Scorer):
    """The log-odds that a token is used: 1 - b with the break probability b = p (1 - r).

    p is the probability to pause, r that to restart; both come from the token and the mean of all tokens.

    Args:
        channels: Number of channels of the tokens.
        hidden: Width between, an eighth of the channels if not given.
        restart: Whether there is an r; without it b = p.
    """

    def __init__(self, channels: int, hidden: int | None = None, restart: bool = True, eps: float = 1e-6) -> None:
        super().__init__(channels)
        self.hidden = max(channels // 8, 1) if hidden is None else hidden
        if type(self.hidden) is not int or self.hidden < 1:
            raise ValueError(f"PropagationScorer: expected `hidden` to be a positive whole number, but got {hidden!r}")
        self.restart = restart
        self.norm = nn.LayerNorm(channels, eps=eps)
        self.local, self.context = nn.Linear(channels, self.hidden), nn.Linear(channels, self.hidden)
        self.pause = nn.Linear(self.hidden, 1)
        if restart:
            self.again = nn.Linear(self.hidden, 1)
        self.init_weights()

    def forward(self, tokens: Tensor, context: Context) -> Tensor:
        normed = self.norm(tokens)
        hidden = F.gelu(self.local(normed) + self.context(mean_of_alive(normed, context.alive)))
        broken = F.logsigmoid(self.pause(hidden).float())  # log b
        if self.restart:
            broken = broken + F.logsigmoid(-self.again(hidden).float())
        broken = broken.clamp_max(-1e-6).squeeze(-1)
        return torch.log(-torch.expm1(broken)) - broken


@MODELS.register_module()
class IdleScorer(Scorer):
    """IdleViT's: the class token's scaled logits in the block to come, averaged over heads."""

    reads_attention = True
    scores_any = False

    def forward(self, tokens: Tensor, context: Context) -> Tensor:
        attention, alive = context.attention, context.alive
        if not attention.extra:
            raise ValueError("IdleScorer: the backbone has no class token. Use AttentionScorer, or with_cls_token=True")
        logits = attention.logits(slice(1), slice(attention.extra, None)).detach().mean(dim=1).squeeze(1)
        return logits if alive is None else logits.masked_fill(~alive, torch.finfo(logits.dtype).min)
