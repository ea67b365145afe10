"""The connectivity predictor: which keys each query of a block will attend to, from a low-rank guess of its attention.

A head's attention is guessed as S @ U: few coefficients S of each query, and a basis U of learned maps over the keys.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsparse.models.backbones.routed_attention import Tokens
from mmsparse.sparsity import Dial

from .basis import Grid, Tiles, resize
from .sparse_attention import attend_to, columns_of, keys_of, top_mask

CACHED = 2**18  # scores that are looked through at once, so that they stay in the cache
EPS = 1e-6  # 0.1 * 30 may be 3.0000000000000004, and no key more


@dataclass(frozen=True)
class Shape:
    """Of a block's attention, and of the predictor beside it.

    Args:
        head_dims: Channels of each head.
        heads: Number of heads.
        grid: Of the tokens that the basis is learned for.
        extra: Number of tokens before the map's.
        rank: Number of maps in the basis.
        channels: That queries and keys are reduced to.
        coefficients: How many of a query's coefficients count; the others are set to zero.
        basis_threshold: Entries of the basis that are not above it in magnitude are set to zero.
        threshold: Keys whose guessed attention is not above it are not attended to either; on another grid it falls
            as the number of keys grows. None: exactly so many keys as the budget says.
        tile: Side of the tiles of keys that are chosen together.
    """

    head_dims: int
    heads: int
    grid: Grid
    extra: int
    rank: int
    channels: int
    coefficients: int
    basis_threshold: float
    threshold: float | None
    tile: int


class ConnectivityPredictor(Dial):
    """Chooses keys for the queries of one block: a ``Pattern`` of mmsparse's routed attention.

    The extra tokens' queries see all keys. Nothing sends a gradient through the choice.
    """

    def __init__(self, name: str, shape: Shape) -> None:
        super().__init__(name)
        self.shape = shape
        self.query = nn.Linear(shape.head_dims, shape.channels)
        self.key = nn.Linear(shape.head_dims, shape.channels)
        tokens = shape.extra + math.prod(shape.grid)
        self.down = nn.Parameter(torch.empty(shape.rank, tokens))
        self.up = nn.Parameter(torch.empty(shape.rank, tokens))
        for parameter in (self.down, self.up, self.query.weight, self.key.weight):
            nn.init.trunc_normal_(parameter, std=0.02)
        for linear in (self.query, self.key):
            nn.init.zeros_(linear.bias)
        self._register_load_state_dict_pre_hook(self._check_grid)

    def approximate(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        """The guess (B, heads, N, extra + N) before anything is set to zero: what the first stage teaches."""
        with torch.autocast(query.device.type, enabled=False):
            return self._coefficients(query, key, grid) @ resize(self.up, self.shape.extra, self.shape.grid, grid)

    def num_keys(self, grid: Grid) -> int:
        """How many keys a query has on a map."""
        return math.ceil(self.keep_ratio * (self.shape.extra + math.prod(grid)) - EPS)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, tokens: Tokens, dropout: float) -> Tensor:
        """Attention (G, heads, n, d): in evaluation on a CPU among the chosen keys alone, otherwise with masks."""
        learning = torch.is_grad_enabled() and any(part.requires_grad for part in (query, key, value))
        if learning or dropout or query.device.type != "cpu":
            seen = self._masks(query, key, tokens, None)[0]
            return F.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            if tokens.numbers is None:
                return self._attend(query, key, value, tokens.grid, None)
            mixed = torch.zeros_like(query)
            for image, numbers in enumerate(tokens.of_images()):  # which tokens are there differs, so does the basis
                parts = (part[image : image + 1, :, : len(numbers)] for part in (query, key, value))
                mixed[image : image + 1, :, : len(numbers)] = self._attend(*parts, tokens.grid, numbers)
            return mixed

    def seen(self, query: Tensor, key: Tensor, tokens: Tokens, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._masks(query, key, tokens, allowed)

    def _coefficients(
        self, query: Tensor, key: Tensor, grid: Grid, numbers: Tensor | None = None, there: Tensor | None = None
    ) -> Tensor:
        """(G, heads, N, rank), positive, of sum one: how much of each map of the basis a query's attention has.

        Args:
            query: (G, heads, extra + N, d).
            key: The same.
            grid: Of the map.
            numbers: Which tokens these are.
            there: Boolean, which of them are there; those that are not say nothing.
        """
        query, key = query.to(self.up.dtype), key.to(self.up.dtype)
        down = resize(self.down, self.shape.extra, self.shape.grid, grid)
        down = down if numbers is None else down[:, numbers]
        down = down if there is None else down * there
        # From the side that has fewer numbers: the tokens are summed first, and then only the sums reduced.
        summed = down @ key  # (G, heads, rank, d)
        summed = summed @ self.key.weight.t() + down.sum(dim=1, keepdim=True) * self.key.bias  # (G, heads, rank, c)
        asked = summed @ self.query.weight  # (G, heads, rank, d)
        logits = query[:, :, self.shape.extra :] @ asked.transpose(-1, -2) + (
            summed @ self.query.bias[:, None]
        ).transpose(-1, -2)
        return (logits * self.shape.heads**-0.5).softmax(dim=-1)

    def _strongest(self, query: Tensor, key: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        """The largest coefficients (R, t) of each query of each head, and of which maps they are."""
        # One image at a time, so that coefficients that are nearly equal fall out the same in every batch.
        pairs = zip(query.split(1), key.split(1), strict=True)
        coefficients = torch.cat([self._coefficients(q, k, *args) for q, k in pairs])
        coefficients = coefficients.flatten(0, 2)
        if coefficients.device.type != "cpu":
            return coefficients.topk(self.shape.coefficients, dim=1, sorted=False)
        maps, _ = columns_of(top_mask(coefficients.detach(), self.shape.coefficients))
        return coefficients.gather(1, maps), maps

    def _basis(self, grid: Grid, numbers: Tensor | None) -> Tensor:
        """(rank, keys), nothing negative, much zero; or of tiles, (rank, tiles)."""
        shape = self.shape
        basis = self.up.detach().abs()
        basis = basis.masked_fill(basis <= shape.basis_threshold, 0.0)
        if shape.tile > 1:
            return resize(basis, shape.extra, shape.grid, Tiles(grid, shape.tile).grid)[:, shape.extra :].contiguous()
        basis = resize(basis, shape.extra, shape.grid, grid)
        return basis if numbers is None else basis[:, numbers]

    @torch.no_grad()
    def _masks(self, query: Tensor, key: Tensor, tokens: Tokens, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Boolean (G, heads, n, n): the keys that are seen, and those that would be if they were allowed."""
        both = []
        with torch.autocast(query.device.type, enabled=False):
            for image, pair in enumerate(zip(query.split(1), key.split(1), strict=True)):
                numbers, there = (None if t is None else t[image] for t in (tokens.numbers, tokens.there))
                may = there if allowed is None else allowed[image, 0]
                both.append(self._image_masks(*pair, tokens.grid, numbers, there, may))
        seen, reach = zip(*both, strict=True)
        return torch.stack(seen), torch.stack(reach)

    def _image_masks(
        self, query: Tensor, key: Tensor, grid: Grid, numbers: Tensor | None, there: Tensor | None, may: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(heads, n, n); ``may`` are the keys (n,), or the keys of each query (n, n), that are allowed."""
        extra, heads, total = self.shape.extra, query.shape[1], key.shape[2]
        weights, maps = self._strongest(query, key, grid, numbers, there)
        scores = F.embedding_bag(maps, self._basis(grid, numbers), per_sample_weights=weights, mode="sum")
        hidden = scores
        if may is not None:
            may = may.expand(total, total)
            hidden = scores.masked_fill(~may[extra:].repeat(heads, 1), -torch.inf)
        chosen = self._best(hidden, grid, total if there is None else max(int(there.sum()), 1))
        if self.shape.tile > 1:
            chosen = reach = self._keys_of_tiles(chosen, grid)
        else:
            reach = scores >= scores.masked_fill(~chosen, torch.inf).amin(dim=1, keepdim=True)
        full = chosen.new_ones(heads, extra, total)
        dense = full if may is None else may[:extra].expand(heads, -1, -1)
        return (
            torch.cat([dense, chosen.unflatten(0, (heads, -1))], dim=1),
            torch.cat([full, reach.unflatten(0, (heads, -1))], dim=1),
        )

    def _best(self, scores: Tensor, grid: Grid, total: int) -> Tensor:
        """Each query's keys of the total, or the tiles that hold so many; boolean as the scores."""
        shape, threshold = self.shape, self.shape.threshold
        count = min(self.num_keys(grid), total)
        if shape.tile > 1:
            tiles = Tiles(grid, shape.tile)
            count, grid = tiles.count(count - shape.extra), tiles.grid
        if threshold is not None:
            threshold *= math.prod(shape.grid) / math.prod(grid)
        return top_mask(scores, count, threshold)

    def _keys_of_tiles(self, chosen: Tensor, grid: Grid) -> Tensor:
        """(R, tiles) -> (R, extra + N); the extra tokens are always seen then."""
        cells = chosen[:, Tiles(grid, self.shape.tile).of_cells().to(chosen.device)]
        return torch.cat([cells.new_ones(len(cells), self.shape.extra), cells], dim=1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, grid: Grid, numbers: Tensor | None) -> Tensor:
        """Attention (G, heads, n, d) among the chosen keys alone; ``numbers`` says which tokens there are."""
        kind, extra, total = query.dtype, self.shape.extra, key.shape[2]
        queries = total - extra
        if not queries:
            return F.scaled_dot_product_attention(query, key, value)
        weights, maps = self._strongest(query, key, grid, numbers)
        basis = self._basis(grid, numbers)
        # All heads of all images are one row of tokens.
        asking, keys, values = (part.to(basis.dtype).flatten(0, 2) for part in (query[:, :, extra:], key, value))
        mixed = torch.empty_like(asking)
        members = Tiles(grid, self.shape.tile).members() if self.shape.tile > 1 else None
        for rows in torch.arange(len(asking)).split(max(CACHED // basis.shape[1], 1)):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            scores = F.embedding_bag(maps[part], basis, per_sample_weights=weights[part], mode="sum")
            chosen, missing = self._best(scores, grid, total), None
            columns, counts = columns_of(chosen)
            if members is not None and isinstance(counts, int):
                columns, missing = keys_of(columns, members, extra)
                counts = columns.shape[1]
            elif members is not None:
                columns, counts = columns_of(self._keys_of_tiles(chosen, grid))
            first = rows // queries * total  # token of a row's own head and image
            columns += first[:, None] if isinstance(counts, int) else first.repeat_interleave(counts)
            mixed[part] = attend_to(asking[part], keys, values, columns, counts, missing)
        mixed = mixed.view(*query.shape[:2], queries, -1).to(kind)
        if not extra:
            return mixed
        return torch.cat([F.scaled_dot_product_attention(query[:, :, :extra], key, value), mixed], dim=2)

    def _check_grid(self, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
        """A basis goes to a network without class token; to another grid only at run time."""
        for name in ("down", "up"):
            saved, mine = state.get(f"{prefix}{name}"), getattr(self, name)
            if saved is None:
                continue
            if self.shape.extra == 0 and saved.shape[1] == mine.shape[1] + 1:
                saved = state[f"{prefix}{name}"] = saved[:, 1:]
            if saved.shape != mine.shape:
                raise ValueError(
                    f"SparsifinerViT: the checkpoint's basis has {saved.shape[0]} maps of {saved.shape[1]} tokens, "
                    f"but this network's has {mine.shape[0]} of {mine.shape[1]} (grid {self.shape.grid}). Build it "
                    "with the `img_size` and `rank` that the checkpoint was trained with; pictures of any size may "
                    "follow, the basis is resized to them"
                )
