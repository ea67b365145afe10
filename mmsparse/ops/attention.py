"""Attention among packed rows: each attends to those of its own group."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .operator import Operator, autocasts

HIDDEN = -3e4  # what is added to the logit of a key that is not there: any precision holds it, and exp gives zero


@dataclass(frozen=True, eq=False)
class Groups:
    """Which packed rows are a group, where not each so many rows in turn are one.

    Args:
        rows: (G, m) row numbers of each group, its own first, then anything.
        counts: (G,) how many of them are its own.
        places: (R,) where each row is in them, flat.
        padding: (G,) how many padded cells each window has, which are keys; None outside of windows.
    """

    rows: Tensor
    counts: Tensor
    places: Tensor
    padding: Tensor | None = None

    @classmethod
    def of(cls, number: Tensor, padding: Tensor | None = None, total: int | None = None) -> "Groups":
        """From each row's group number; ``padding`` is that of every number there may be.

        With ``total`` there are so many groups, some of them perhaps without rows; otherwise those that have rows.
        """
        if total is None:
            present, group, counts = number.unique(return_inverse=True, return_counts=True)
        else:
            group, counts = number, number.bincount(minlength=total)
        order = group.argsort(stable=True)
        starts = counts.cumsum(0) - counts
        width = int(counts.max()) if len(counts) else 0
        columns = torch.arange(width, device=number.device)
        rows = order[(starts[:, None] + columns).clamp(max=max(len(number) - 1, 0))]
        of_sorted = torch.arange(len(number), device=number.device) - starts[group[order]] + group[order] * width
        places = torch.empty_like(order).index_copy_(0, order, of_sorted)
        if padding is not None and total is None:
            padding = padding[present]
        return cls(rows, counts, places, padding)

    @property
    def own(self) -> Tensor:
        """Boolean (G, m)."""
        return torch.arange(self.rows.shape[1], device=self.rows.device) < self.counts[:, None]


def attention_rows(
    query: Tensor,
    key_value: Tensor,
    heads: int,
    groups: Groups | int,
    asked: Groups | int | None = None,
    padded: Tensor | None = None,
) -> Tensor:
    """What packed queries (R, C) get from packed keys and values of their groups: (R, C), heads side by side.

    Args:
        query: (R, C), projected.
        key_value: Keys and values side by side (E, 2 * C).
        heads: Of C channels each takes its share.
        groups: Those of the queries; a number says that each so many rows in turn are one.
        asked: Those of keys and values, in the same order; None: the same as the queries'.
        padded: Key and value (1, 2 * C) of every padded cell, where groups are windows that have some.
    """
    asked = groups if asked is None else asked
    asking, places = (None, None) if isinstance(groups, int) else (groups.rows, groups.places)
    table = bias = None
    if isinstance(asked, Groups):
        table = asked.rows
        bias = torch.where(asked.own, 0.0, HIDDEN).to(query.dtype)
        if padded is not None and asked.padding is not None:
            # All padded cells of a window are one key, as often as they are.
            table = F.pad(table, (0, 1), value=len(key_value))
            bias = torch.cat([bias, asked.padding.to(bias).log().clamp_min(HIDDEN).unsqueeze(1)], dim=1)
            key_value = torch.cat([key_value, padded.to(key_value)])
    args = (query, key_value, heads, asking, places, table, bias)
    args += tuple(0 if isinstance(group, Groups) else group for group in (groups, asked))
    if autocasts(query):
        return _plain(*args)
    return _operator(*args)


def _plain(
    query: Tensor,
    key_value: Tensor,
    heads: int,
    asking: Tensor | None,
    places: Tensor | None,
    asked: Tensor | None,
    bias: Tensor | None,
    each: int,
    each_asked: int,
) -> Tensor:
    if query.shape[0] == 0:
        return query.clone()
    channels = query.shape[1] // heads
    query = _grouped(query, asking, each).unflatten(-1, (heads, channels)).transpose(1, 2)  # (G, heads, m, C / heads)
    key_value = _grouped(key_value, asked, each_asked).unflatten(-1, (2, heads, channels))
    key, value = key_value.permute(2, 0, 3, 1, 4).unbind(0)
    mask = None if bias is None else bias[:, None, None]  # (G, 1, 1, n)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2).flatten(0, 1)
    return mixed if places is None else mixed.index_select(0, places)


def _grouped(rows: Tensor, table: Tensor | None, each: int) -> Tensor:
    """(R, C) -> (G, m, C)."""
    if table is None:
        return rows.unflatten(0, (-1, each))
    return rows.index_select(0, table.flatten()).unflatten(0, table.shape)


def _flops(query: Any, asking: Any, asked: Any, each_asked: int, **_: Any) -> int:
    """Of the two products, groups filled up to the largest."""
    cells = query[0] if asking is None else math.prod(asking)
    return 4 * cells * (each_asked if asked is None else asked[1]) * query[1]


_operator = Operator("attention_rows", _plain, _flops)
