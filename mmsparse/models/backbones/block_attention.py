"""The attention of a block to come, as scorers may read it before the block runs."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .positions import Grid, Positions, Tokens
from .routed_attention import Windows

Places = tuple[Tokens, Tokens]  # those that ask, and those that are asked


def _recorded(read: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Without gradients unless the attention is read with them."""

    @functools.wraps(read)
    def wrapped(attention: "BlockAttention", *args: Any) -> Tensor:
        with torch.set_grad_enabled(attention.graph and torch.is_grad_enabled()):
            return read(attention, *args)

    return wrapped


@dataclass(eq=False)
class BlockAttention:
    """What scorers may read of the block to come: ``mmsparse.sparsity.scorers.Attention``.

    Args:
        x: (B, extra + N, C), what the block will be given.
        norm: In front of its attention.
        qkv: Its projection.
        num_heads: Of its attention.
        extra: Number of tokens before the map's; the first is the class token.
        windows: Its windows; None if all attend to all. Cells that a window lacks are left out.
        graph: Whether what is read has gradients.
        positions: What places do to its logits; the mean of all tokens, which asks where there is no class token, has
            no place.
        grid: Of the map.
    """

    x: Tensor
    norm: nn.Module
    qkv: nn.Linear
    num_heads: int
    extra: int = 0
    windows: Windows | None = None
    graph: bool = False
    positions: Positions | None = None
    grid: Grid | None = None

    @_recorded
    def keys(self) -> Tensor:
        return self._project(self._normed, 1)

    @_recorded
    def values(self) -> Tensor:
        return self._project(self._normed, 2)

    @_recorded
    def class_row(self, alive: Tensor | None) -> Tensor:
        tokens, places = self._normed, None
        if self.extra:
            asking, places = self.norm(self.x[:, :1]), self._places(slice(0, 1), slice(self.extra, None))
        elif alive is None:
            asking = tokens.mean(1, keepdim=True)
        else:
            weight = alive.unsqueeze(-1).to(tokens)
            asking = (tokens * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1)
        weights = self._weights(self._project(asking, 0), self._project(tokens, 1), alive, places=places)
        return weights.mean(dim=1).squeeze(1)

    @_recorded
    def column_mass(self, alive: Tensor | None) -> Tensor:
        query, key = self._project(self._normed, 0), self._project(self._normed, 1)
        if self.windows is None:
            size = 1 if key.device.type == "cpu" else len(key)  # one picture's rows stay in the cache
            masks = [None] * len(query.split(size)) if alive is None else alive.split(size)
            parts = zip(query.split(size), key.split(size), masks, strict=True)
            places = self._places(slice(self.extra, None), slice(self.extra, None))
            return torch.cat([self._mass(*part, None, places) for part in parts])
        alive = torch.ones_like(key[..., 0], dtype=torch.bool) if alive is None else alive
        query, key, there = (self.windows.split(part) for part in (query, key, alive.unsqueeze(-1).to(key)))
        within = Tokens((self.windows.size, self.windows.size), 0)
        mass = self._mass(query, key, there.squeeze(-1) > 0.5, self.windows.bias(query), (within, within))
        return self.windows.join(mass.unsqueeze(-1)).squeeze(-1)

    @_recorded
    def logits(self, queries: slice, keys: slice) -> Tensor:
        """Scaled products of some tokens with some, extra ones in the count: (B, heads, queries, keys)."""
        normed = self.norm(self.x)
        asking, asked = self._project(normed[:, queries], 0), self._project(normed[:, keys], 1)
        return self._products(asking, asked, self._places(queries, keys))

    @cached_property
    def _normed(self) -> Tensor:
        return self.norm(self.x[:, self.extra :])

    def _project(self, tokens: Tensor, part: int) -> Tensor:
        bias = None if self.qkv.bias is None else self.qkv.bias.chunk(3)[part]
        return F.linear(tokens, self.qkv.weight.chunk(3)[part], bias)

    def _places(self, queries: slice, keys: slice) -> Places | None:
        if self.positions is None:
            return None
        numbers = torch.arange(self.x.shape[1], device=self.x.device).unsqueeze(0)
        return tuple(Tokens(self.grid, self.extra, numbers[:, part]) for part in (queries, keys))

    def _products(self, query: Tensor, key: Tensor, places: Places | None = None) -> Tensor:
        """Of (G, n, C) and (G, m, C), scaled: (G, heads, n, m)."""
        query, key = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key))
        bias = None
        if self.positions is not None and places is not None:
            query, key, bias = self.positions.place(query, key, *places)
        logits = (query / math.sqrt(query.shape[-1]) @ key.transpose(-1, -2)).float()
        return logits if bias is None else logits + bias

    def _weights(
        self,
        query: Tensor,
        key: Tensor,
        alive: Tensor | None,
        bias: Tensor | None = None,
        places: Places | None = None,
    ) -> Tensor:
        """Softmax of (G, n, C) on (G, m, C): (G, heads, n, m)."""
        logits = self._products(query, key, places)
        if bias is not None:
            logits = (logits.unflatten(0, (-1, len(bias))) + bias).flatten(0, 1)
        if alive is not None:
            logits = logits.masked_fill(~alive[:, None, None], torch.finfo(logits.dtype).min)
        return logits.softmax(dim=-1)

    def _mass(
        self, query: Tensor, key: Tensor, alive: Tensor | None, bias: Tensor | None, places: Places | None
    ) -> Tensor:
        rows = self._weights(query, key, alive, bias, places)
        if alive is not None:
            rows = rows * alive[:, None, :, None]
        return rows.sum(dim=2).mean(dim=1)  # not their mean: smaller windows would weigh more
