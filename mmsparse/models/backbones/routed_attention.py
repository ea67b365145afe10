"""Attention among selected tokens: with masks while training, on packed rows in evaluation; the same numbers.

An unselected token is nobody's key. Windows are padded with zeros behind the norm, as in ViTDet and SAM, and what is
padded is a key like any other.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Grid = tuple[int, int]
MAX_LOGIT = 10.0  # of a masked key above the sum of the others, in the gate's gradient


def split_heads(attn: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (G, heads, n, d) of tokens (G, n, C)."""
    return attn.qkv(rows).unflatten(-1, (3, attn.num_heads, attn.head_dims)).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(mixed: Tensor) -> Tensor:
    """(G, heads, n, d) -> (G, n, C)."""
    return mixed.transpose(1, 2).flatten(2)


def project(attn: nn.Module, rows: Tensor) -> Tensor:
    """What the stock layer does behind its attention."""
    return attn.out_drop(attn.gamma1(attn.proj_drop(attn.proj(rows))))


def to_windows(tokens: Tensor, grid: Grid, size: int, value: float = 0.0) -> Tensor:
    """(B, H * W, C) -> (B * windows, size^2, C); what is missing at the right and bottom gets ``value``."""
    cells = tokens.unflatten(1, grid)
    cells = F.pad(cells, (0, 0, 0, -grid[1] % size, 0, -grid[0] % size), value=value)
    cells = cells.unflatten(1, (-1, size)).unflatten(3, (-1, size))  # (B, windows, size, windows, size, C)
    return cells.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def from_windows(windows: Tensor, grid: Grid, size: int) -> Tensor:
    """The inverse of ``to_windows``."""
    down, right = -(-grid[0] // size), -(-grid[1] // size)
    cells = windows.unflatten(0, (-1, down, right)).unflatten(3, (size, size)).transpose(2, 3)
    return cells.flatten(3, 4).flatten(1, 2)[:, : grid[0], : grid[1]].flatten(1, 2)


def masked_attention(attn: nn.Module, tokens: Tensor, keep: Tensor, gate: Tensor) -> Tensor:
    """Self-attention of all tokens (G, n, C) that sees the selected ones, and each itself.

    Args:
        attn: The stock attention layer.
        tokens: Behind the norm.
        keep: Boolean (G, n), the keys that may be seen.
        gate: (G, n) of the same values; gets the gradient of each key's presence.
    """
    query, key, value = split_heads(attn, tokens)
    itself = torch.eye(keep.shape[1], dtype=torch.bool, device=keep.device)
    seen = (keep.unsqueeze(1) | itself).unsqueeze(1)  # (G, 1, n, n)
    dropout = attn.attn_drop if attn.training else 0.0
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout)
    if gate.requires_grad:
        mixed = _KeyGradient.apply(mixed, gate, query.detach(), key.detach(), value.detach(), seen)
    return project(attn, merge_heads(mixed))


class _KeyGradient(torch.autograd.Function):
    """Identity on attention's output; gives gates the gradient of multiplying the columns of exp(QK) by them."""

    @staticmethod
    def forward(
        ctx: Any, mixed: Tensor, gate: Tensor, query: Tensor, key: Tensor, value: Tensor, seen: Tensor
    ) -> Tensor:
        ctx.save_for_backward(mixed, query, key, value, seen)
        return mixed.view_as(mixed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mixed, query, key, value, seen = ctx.saved_tensors
        logits = (query @ key.transpose(-1, -2)).float() / math.sqrt(query.shape[-1])
        total = logits.masked_fill(~seen, -torch.inf).logsumexp(dim=-1, keepdim=True)
        weight = (logits - total).clamp(max=MAX_LOGIT).exp()  # of a masked key: what it would have, had it a gate
        grad_weight = (grad @ value.transpose(-1, -2)).float() - (grad * mixed).float().sum(dim=-1, keepdim=True)
        grad_gate = (weight * grad_weight).sum(dim=1)  # (G, n, n); a token always sees itself
        grad_gate.diagonal(dim1=-2, dim2=-1).zero_()
        return grad, grad_gate.sum(dim=1), None, None, None, None


@dataclass(frozen=True, eq=False)
class Groups:
    """Which packed rows attend to each other.

    Args:
        rows: (G, m) row numbers of each group, its own first, then anything.
        counts: (G,) how many of them are its own.
        padding: (G,) how many padded cells each window has; None outside of windows.
    """

    rows: Tensor
    counts: Tensor
    padding: Tensor | None = None

    @classmethod
    def of(cls, number: Tensor, padding: Tensor | None = None) -> "Groups":
        """From each row's group number; ``padding`` is that of every number there may be."""
        present, group, counts = number.unique(return_inverse=True, return_counts=True)
        order = group.argsort(stable=True)
        starts = counts.cumsum(0) - counts
        width = int(counts.max()) if len(counts) else 0
        places = (starts[:, None] + torch.arange(width, device=number.device)).clamp(max=max(len(number) - 1, 0))
        return cls(order[places], counts, None if padding is None else padding[present])


def packed_attention(attn: nn.Module, rows: Tensor, groups: Groups | int) -> Tensor:
    """Self-attention of packed rows (R, C) within groups; a number says that each so many rows in turn are one."""
    if not len(rows):
        return rows
    if isinstance(groups, int):
        query, key, value = split_heads(attn, rows.unflatten(0, (-1, groups)))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return project(attn, merge_heads(mixed).flatten(0, 1))
    width = groups.rows.shape[1]
    own = torch.arange(width, device=rows.device) < groups.counts[:, None]  # (G, m)
    projected = attn.qkv(rows)[groups.rows].unflatten(-1, (3, attn.num_heads, attn.head_dims))
    query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
    bias = torch.zeros(own.shape, dtype=query.dtype, device=rows.device).masked_fill(~own, -torch.inf)
    if groups.padding is not None:
        # Padded cells are zeros before the projection, so all of them are one key: its bias, as often as they are.
        zero = attn.qkv(rows.new_zeros(1, rows.shape[1])).unflatten(-1, (3, attn.num_heads, attn.head_dims))
        _, key_pad, value_pad = zero.permute(1, 2, 0, 3).unsqueeze(1).unbind(0)
        key = torch.cat([key, key_pad.expand(len(key), -1, -1, -1)], dim=2)
        value = torch.cat([value, value_pad.expand(len(value), -1, -1, -1)], dim=2)
        bias = torch.cat([bias, groups.padding.to(bias).log().unsqueeze(1)], dim=1)
    mixed = merge_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=bias[:, None, None]))
    return project(attn, mixed.new_empty(rows.shape).index_copy(0, groups.rows[own], mixed[own]))
