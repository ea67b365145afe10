"""What a token would give the class token: the attention it gets from it, times the length of its value."""

import torch
from torch import Tensor

from mmsparse.registry import MODELS
from mmsparse.sparsity import Context, Scorer


@MODELS.register_module()
class ValueAttentionScorer(Scorer):
    """The logarithm of a token's share in the class token's attention, summed over heads, times its value's length.

    Both are those of the block to come; a picture's shares sum to one. Where there is no class token, it is the
    attention of the mean query. No parameters, no training.
    """

    reads_attention = True
    scores_any = False

    def forward(self, tokens: Tensor, context: Context) -> Tensor:
        attention, alive = context.attention, context.alive
        if attention.extra:
            logits = attention.logits(slice(1), slice(None)).squeeze(2)  # (B, heads, extra + N), itself among the keys
            if alive is not None:
                there = torch.cat([alive.new_ones(len(alive), attention.extra), alive], dim=1)
                logits = logits.masked_fill(~there.unsqueeze(1), -torch.inf)
            row = logits.softmax(dim=-1).sum(dim=1)[:, attention.extra :]
        else:
            row = attention.class_row(alive)
        given = row * attention.values().float().norm(dim=-1)
        return (given / given.sum(dim=1, keepdim=True).clamp_min(1e-30)).clamp_min(1e-30).log()
