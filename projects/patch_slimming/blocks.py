"""One block of a plain transformer with a static mask: what it computes, and its attention maps."""

import math

import torch
from torch import Tensor, nn

from mmsparse.models.backbones.routed_attention import asking_attention, split_heads


def slim_block(layer: nn.Module, x: Tensor, kept: Tensor, entering: Tensor) -> Tensor:
    """Queries, output projection and feed-forward network of some tokens; all others keep their value.

    Args:
        layer: The stock layer, not dropping anything at random.
        x: (B, M, C), extra tokens included.
        kept: Boolean (M,), the tokens it computes.
        entering: Boolean (M,), the tokens it attends to.
    """
    index = kept.nonzero().squeeze(1)
    rows, asked = x.index_select(1, index), x[:, entering]
    packed = (rows.flatten(0, 1), rows.shape[1], asked.flatten(0, 1), asked.shape[1])
    mixed = asking_attention(layer.attn, layer.ln1(packed[0]), packed[1], layer.ln1(packed[2]), packed[3])
    rows = rows + mixed.view_as(rows)
    return x.index_copy(1, index, layer.ffn(layer.ln2(rows), identity=rows))


def attention_maps(layer: nn.Module, x: Tensor, kept: Tensor, entering: Tensor) -> Tensor:
    """The softmax of the block, (B, heads, M, M): zero in the rows of tokens it does not compute."""
    query, key, _ = split_heads(layer.attn, layer.ln1(x))
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return logits.masked_fill(~entering, -torch.inf).softmax(dim=-1) * kept.unsqueeze(-1)


@torch.no_grad()
def record(layers: nn.ModuleList, x: Tensor, kept: Tensor, first: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and attention maps of the blocks from one on.

    Args:
        layers: Of the backbone.
        x: (B, M, C), what the first of them all is given.
        kept: Boolean (blocks, M), what each block computes; each attends to what the block before computed.
        first: The first block whose maps are wanted.

    Returns:
        The inputs (B, M, C) of all blocks with the last one's output behind, and the maps (B, heads, M, M).
    """
    inputs, maps = [x], []
    everything = torch.ones_like(kept[0])
    for number, layer in enumerate(layers):
        entering = kept[number - 1] if number else everything
        if number >= first:
            maps.append(attention_maps(layer, inputs[-1], kept[number], entering))
        inputs.append(slim_block(layer, inputs[-1], kept[number], entering))
    return inputs, maps
