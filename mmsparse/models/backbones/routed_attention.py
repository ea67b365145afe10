"""Attention among selected tokens: with masks while training, on packed rows in evaluation; the same numbers.

An unselected token is nobody's key, unless a block's keys are all that entered it; and a pattern may show each query
fewer keys than there are. Windows are padded with zeros behind the norm, as in ViTDet and SAM, and what is padded is a
key like any other.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsparse.ops import Groups, attention_rows, exporting
from mmsparse.ops.attention import HIDDEN

from .positions import Grid, Positions, Tokens

MAX_LOGIT = 10.0  # of a masked key above the sum of the others, in the gate's gradient


class Pattern(Protocol):
    """Which keys each query sees, where it does not see all that are there. Of blocks without windows."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, tokens: Tokens, dropout: float) -> Tensor:
        """Attention of (G, heads, n, d)."""

    def seen(self, query: Tensor, key: Tensor, tokens: Tokens, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Of the keys that are ``allowed`` (G, 1, n, n), those that are seen, and those that would be if allowed."""


def split_heads(attn: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (G, heads, n, d) of tokens (G, n, C)."""
    return attn.qkv(rows).unflatten(-1, (3, attn.num_heads, attn.head_dims)).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(mixed: Tensor) -> Tensor:
    """(G, heads, n, d) -> (G, n, C)."""
    return mixed.transpose(1, 2).flatten(2)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Attention of (G, heads, n, d), with what is added to its logits."""
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
    if bias is not None and exporting():  # what exporters put in a biased kernel's place lays memory out otherwise
        mixed = mixed.clone(memory_format=torch.contiguous_format)
    return mixed


def project(attn: nn.Module, rows: Tensor) -> Tensor:
    """What the stock layer does behind its attention, up to the stochastic depth of whole images."""
    return attn.gamma1(attn.proj_drop(attn.proj(rows)))


@dataclass(frozen=True)
class Windows:
    """Square windows of a map; what is missing at the right and bottom is filled in."""

    grid: Grid
    size: int

    def split(self, tokens: Tensor, missing: float = 0.0) -> Tensor:
        """(B, H * W, C) -> (B * windows, size^2, C)."""
        cells = tokens.unflatten(1, self.grid)
        cells = F.pad(cells, (0, 0, 0, -self.grid[1] % self.size, 0, -self.grid[0] % self.size), value=missing)
        cells = cells.unflatten(1, (-1, self.size)).unflatten(3, (-1, self.size))  # (B, down, size, right, size, C)
        return cells.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def join(self, windows: Tensor) -> Tensor:
        """The inverse of ``split``."""
        height, width = self.grid
        down, right = -(-height // self.size), -(-width // self.size)
        cells = windows.unflatten(0, (-1, down, right)).unflatten(3, (self.size, self.size)).transpose(2, 3)
        return cells.flatten(3, 4).flatten(1, 2)[:, :height, :width].flatten(1, 2)

    def bias(self, like: Tensor) -> Tensor | None:
        """What is added to the logits (windows or 1, heads or 1, size^2, size^2)."""
        return None


@dataclass(frozen=True, eq=False)
class Keys:
    """Which tokens may be seen: one mask for all heads, and for all blocks between two places.

    Args:
        keep: Boolean (G, n), the keys that may be seen; besides, each token sees itself.
        gate: (G, n) of the same values; gets the gradient of each key's presence.
        numbers: (G, n), which tokens they are; None: all of them.
    """

    keep: Tensor
    gate: Tensor
    numbers: Tensor | None = None
    _biases: dict[torch.dtype, Tensor] = field(default_factory=dict, init=False)
    _windows: dict[int, "Keys"] = field(default_factory=dict, init=False)

    def seen(self) -> Tensor:
        """Boolean (G, 1, n, n)."""
        itself = torch.eye(self.keep.shape[1], dtype=torch.bool, device=self.keep.device)
        return (self.keep.unsqueeze(1) | itself).unsqueeze(1)

    def bias(self, dtype: torch.dtype) -> Tensor:
        """What is added to the logits (G, 1, n, n); the same tensor at every call."""
        if dtype not in self._biases:
            self._biases[dtype] = additive(self.seen(), dtype)
        return self._biases[dtype]

    def split(self, windows: Windows) -> "Keys":
        """Those of each window, where what is filled in is a key; the same at every call."""
        if windows.size not in self._windows:
            gate = windows.split(self.gate.unsqueeze(-1), missing=1.0).squeeze(-1)
            self._windows[windows.size] = Keys(gate.detach() > 0.5, gate)
        return self._windows[windows.size]


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a key is seen, and -inf elsewhere: what torch would make of ``seen`` in each call.

    No row is -inf alone, because each token sees itself, unless a pattern hides all keys of a query. Kernels on a GPU
    take the tensor as it is, without a copy of their own, where rows begin at multiples of eight.
    """
    width = seen.shape[-1]
    rows = torch.zeros(*seen.shape[:-1], -(-width // 8) * 8, dtype=dtype, device=seen.device)
    return rows[..., :width].masked_fill_(~seen, -torch.inf)


def masked_attention(
    attn: nn.Module,
    tokens: Tensor,
    keys: Keys,
    pattern: Pattern | None = None,
    of: Tokens | None = None,
    positions: Positions | None = None,
) -> Tensor:
    """Self-attention of all tokens (G, n, C) that sees the selected ones, and each itself.

    Args:
        attn: The stock attention layer.
        tokens: Behind the norm.
        keys: What may be seen.
        pattern: What else hides keys.
        of: Which tokens these are, for the pattern and the positions.
        positions: What their places do.
    """
    query, key, value = split_heads(attn, tokens)
    reach = added = None
    if positions is not None:
        query, key, added = positions.place(query, key, of, of)
    if pattern is None:
        bias = keys.bias(query.dtype)
    else:
        seen, reach = pattern.seen(query, key, of, keys.seen())  # (G, heads, n, n)
        bias = additive(seen, query.dtype)
    dropout = attn.attn_drop if attn.training else 0.0
    total = bias if added is None else bias + added
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=total, dropout_p=dropout)
    if keys.gate.requires_grad:
        added = None if added is None else added.detach()
        mixed = _KeyGradient.apply(mixed, keys.gate, query.detach(), key.detach(), value.detach(), bias, reach, added)
    return project(attn, merge_heads(mixed))


class _KeyGradient(torch.autograd.Function):
    """Identity on attention's output; gives gates the gradient of multiplying the columns of exp(QK) by them."""

    @staticmethod
    def forward(ctx: Any, mixed: Tensor, gate: Tensor, *saved: Tensor | None) -> Tensor:
        ctx.save_for_backward(mixed, *saved)  # query, key, value, bias, reach, added
        return mixed.view_as(mixed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mixed, query, key, value, bias, reach, added = ctx.saved_tensors
        query = query / math.sqrt(query.shape[-1])
        grad_gate = grad.new_zeros(grad.shape[0], grad.shape[2], dtype=torch.float32)
        for head in range(grad.shape[1]):  # one at a time: the matrices (G, n, n) are large
            logits = (query[:, head] @ key[:, head].transpose(-1, -2)).float()
            if added is not None:
                logits = logits + added[:, head]
            total = (logits + bias[:, head % bias.shape[1]]).logsumexp(dim=-1, keepdim=True)
            weight = logits.sub_(total).clamp_(max=MAX_LOGIT).exp_()  # of a masked key: what it would have
            grad_weight = (grad[:, head] @ value[:, head].transpose(-1, -2)).float()
            grad_weight -= (grad[:, head] * mixed[:, head]).float().sum(dim=-1, keepdim=True)
            weight.mul_(grad_weight).diagonal(dim1=-2, dim2=-1).zero_()  # a token never hides itself from itself
            if reach is not None:
                weight.masked_fill_(~reach[:, head], 0.0)
            grad_gate += weight.sum(dim=1)
        return grad, grad_gate, *[None] * 6


def dense_attention(
    attn: nn.Module,
    tokens: Tensor,
    pattern: Pattern | None = None,
    of: Tokens | None = None,
    positions: Positions | None = None,
) -> Tensor:
    """Self-attention of all tokens (G, n, C), or of what a pattern shows of them."""
    dropout = attn.attn_drop if attn.training else 0.0
    query, key, value = split_heads(attn, tokens)
    if pattern is None:
        added = None
        if positions is not None:
            query, key, added = positions.place(query, key, of, of)
        mixed = attend(query, key, value, added, dropout)
    else:
        mixed = pattern.attend(query, key, value, of, dropout)
    return project(attn, merge_heads(mixed))


def packed_attention(
    attn: nn.Module, rows: Tensor, groups: Groups | int, pattern: Pattern | None = None, of: Tokens | None = None
) -> Tensor:
    """Self-attention of packed rows (R, C) within groups; a number says that each so many rows in turn are one.

    ``of`` says, for a pattern, which tokens the rows of each group are.
    """
    if not len(rows):
        return rows
    if pattern is not None and isinstance(groups, int):
        return dense_attention(attn, rows.unflatten(0, (-1, groups)), pattern, of).flatten(0, 1)
    if pattern is not None:
        own = groups.own
        projected = attn.qkv(rows)[groups.rows].unflatten(-1, (3, attn.num_heads, attn.head_dims))
        mixed = merge_heads(pattern.attend(*projected.permute(2, 0, 3, 1, 4).unbind(0), of, 0.0))
        return project(attn, mixed.new_empty(rows.shape).index_copy(0, groups.rows[own], mixed[own]))
    query, key_value = _project(attn, rows)
    padded = None
    if isinstance(groups, Groups) and groups.padding is not None:  # padded cells are zeros before the projection
        padded = attn.qkv(rows.new_zeros(1, rows.shape[1]))[:, attn.embed_dims :]
    return project(attn, attention_rows(query, key_value, attn.num_heads, groups, padded=padded))


@dataclass(frozen=True, eq=False)
class Placed:
    """Packed rows in their groups, as places need them: which tokens they are, and which those that they ask.

    Args:
        groups: Of the rows; a number says that each so many in turn are one.
        tokens: Which tokens the rows of each group are.
        asked_groups: Those of the keys, in the same order.
        asked: Which tokens the keys of each group are.
        missing: How many cells of zeros are keys behind the rows.
    """

    groups: Groups | int
    tokens: Tokens
    asked_groups: Groups | int
    asked: Tokens
    missing: int = 0


def placed_attention(
    attn: nn.Module, rows: Tensor, positions: Positions, placed: Placed, entering: Tensor | None = None
) -> Tensor:
    """Attention of packed rows (R, C) within groups, with what places do; to rows that entered, if there are any."""
    if not len(rows):
        return rows
    asked = rows if entering is None else entering
    if placed.missing:  # padded cells are zeros before the projection
        asked = torch.cat([asked, asked.new_zeros(placed.missing, asked.shape[1])])
    query, key_value = _project_apart(attn, rows, asked) if asked is not rows else _project(attn, rows)
    query = _grouped(query, placed.groups).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)  # (G, heads, n, d)
    key_value = _grouped(key_value, placed.asked_groups).unflatten(-1, (2, attn.num_heads, -1))
    key, value = key_value.permute(2, 0, 3, 1, 4).unbind(0)
    query, key, bias = positions.place(query, key, placed.tokens, placed.asked)
    if placed.asked.there is not None:
        mask = torch.where(placed.asked.there, 0.0, HIDDEN).to(query.dtype)[:, None, None]
        bias = mask if bias is None else bias + mask
    mixed = merge_heads(attend(query, key, value, bias)).flatten(0, 1)
    return project(attn, mixed if isinstance(placed.groups, int) else mixed[placed.groups.places])


def _project(attn: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Queries, and keys and values side by side, of packed rows."""
    return attn.qkv(rows).tensor_split([attn.embed_dims], dim=1)


def _project_apart(attn: nn.Module, rows: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    """The same, where keys and values are of other rows."""
    dims = attn.embed_dims
    bias = (None, None) if attn.qkv.bias is None else (attn.qkv.bias[:dims], attn.qkv.bias[dims:])
    return F.linear(rows, attn.qkv.weight[:dims], bias[0]), F.linear(asked, attn.qkv.weight[dims:], bias[1])


def _grouped(rows: Tensor, groups: Groups | int) -> Tensor:
    """(R, C) -> (G, m, C)."""
    return rows.unflatten(0, (-1, groups)) if isinstance(groups, int) else rows[groups.rows]


def asking_attention(
    attn: nn.Module, rows: Tensor, groups: Groups | int, entering: Tensor, entering_groups: Groups | int
) -> Tensor:
    """Attention of packed rows (R, C) to packed rows (E, C); the groups of both are in the same order."""
    if not len(rows):
        return rows
    query, key_value = _project_apart(attn, rows, entering)
    return project(attn, attention_rows(query, key_value, attn.num_heads, groups, entering_groups))
