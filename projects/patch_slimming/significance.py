"""How much each token of a block matters to what is read of the network: the paper's score, exactly.

For block t the score of token i is the sum over all paths of attention heads through the blocks behind t of
||A[:, i]||^2 ||U[i, :]||^2, where A is the product of the attention maps along the path and U = P |Z| the block's own
map applied to the absolute values of its input. The number of paths grows exponentially with the depth, the sum does
not need them: what it takes of A is the diagonal of the sum of A^T A, which obeys a recursion from block to block.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def influence(maps: Sequence[Tensor], whole: bool) -> Iterator[Tensor]:
    """Mean of A^T A over the head paths behind each block, (B, M, M), from the last block to the first.

    Args:
        maps: Attention maps (B, heads, M, M) in the order of the blocks, with zeros in the rows of tokens that their
            block does not compute.
        whole: Whether every location of the map is read, not the last block's computed tokens alone. Whatever a block
            gives a location then reaches the map through the shortcuts, too, which adds the identity at each block.
    """
    batch, _, tokens, _ = maps[-1].shape
    itself = torch.eye(tokens, dtype=maps[-1].dtype, device=maps[-1].device).expand(batch, -1, -1)
    gram = itself
    for attention in reversed(maps):
        yield gram
        # one head at a time: the products are as large as all maps together
        gram = sum(head.transpose(1, 2) @ gram @ head for head in attention.unbind(1)) / attention.shape[1]
        if whole:
            gram = gram + itself


def significance(maps: Sequence[Tensor], inputs: Sequence[Tensor], whole: bool) -> list[Tensor]:
    """The scores (B, M) of each block's tokens.

    It is the mean over head paths, the block's own heads included; the paper's sum is that times their number, the
    same for all tokens of a block.

    Args:
        maps: See ``influence``.
        inputs: What each of these blocks was given, (B, M, C).
        whole: See ``influence``. If not, the scores of the last block say nothing.
    """
    scores = []
    for gram, attention, x in zip(influence(maps, whole), reversed(maps), reversed(inputs), strict=True):
        mixed = attention @ x.abs().unsqueeze(1)  # (B, heads, M, C)
        scores.append(gram.diagonal(dim1=1, dim2=2) * mixed.square().sum(dim=-1).mean(dim=1))
    return scores[::-1]
