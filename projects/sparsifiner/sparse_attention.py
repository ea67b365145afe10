"""Attention of each query to keys of its own: which ones have the largest scores, and the sums over them alone."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Counts = int | Tensor  # how many each row has: (R,), or one number if all have as many


def top_mask(scores: Tensor, count: int, threshold: float | None = None) -> Tensor:
    """The largest so many of each row, boolean (R, n); of equal ones the first.

    Args:
        scores: (R, n) without NaN; what is -inf is never taken.
        count: How many, if there are so many.
        threshold: Scores that are not above it are not taken either.
    """
    if count >= scores.shape[1]:
        mask = scores > -torch.inf
    else:
        limit = _kth_largest(scores, count)
        mask = scores >= limit
        if int(mask.count_nonzero()) != count * len(scores):
            tied = scores == limit
            room = count - (scores > limit).sum(dim=1, keepdim=True)
            mask &= ~tied | (tied.cumsum(dim=1) <= room)
        if bool(limit.isneginf().any()):
            mask &= scores > -torch.inf
    return mask if threshold is None else mask.logical_and_(scores > threshold)


def _kth_largest(scores: Tensor, count: int) -> Tensor:
    """(R, 1). On a CPU by NumPy, whose vectorised selection takes a fraction of the time of torch.topk."""
    if scores.device.type != "cpu":
        return scores.topk(count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    at = scores.shape[1] - count
    return torch.from_numpy(np.partition(scores.numpy(), at, axis=1)[:, at : at + 1].copy())


def columns_of(mask: Tensor) -> tuple[Tensor, Counts]:
    """Column numbers of the True entries of (R, n), row by row, and how many each row has."""
    flat = torch.from_numpy(np.flatnonzero(mask.numpy()))  # faster than torch's, which gives both coordinates
    counts = mask.sum(dim=1)
    common = len(flat) // len(mask)
    if common and bool((counts == common).all()):
        begin = torch.arange(len(mask)).unsqueeze(1) * mask.shape[1]
        return (flat.view(-1, common) - begin).flatten(), common
    return flat % mask.shape[1], counts


def keys_of(tiles: Tensor, counts: Counts, members: Tensor, extra: int) -> tuple[Tensor, Counts]:
    """The same of each tile's locations (tiles, size), behind the extra tokens, which every query has."""
    rows = len(counts) if isinstance(counts, Tensor) else len(tiles) // counts
    inside = members[tiles]
    if isinstance(counts, int) and -1 not in inside:
        own = (inside + extra).view(rows, -1)
        both = torch.cat([torch.arange(extra).expand(rows, -1), own], dim=1)
        return both.flatten(), both.shape[1]
    counts = counts if isinstance(counts, Tensor) else torch.full((rows,), counts)
    there = inside >= 0
    owner = torch.arange(rows).repeat_interleave(counts)[:, None].expand_as(inside)[there]
    owner = torch.cat([torch.arange(rows).repeat_interleave(extra), owner])
    keys = torch.cat([torch.arange(extra).repeat(rows), inside[there] + extra])
    return keys[owner.argsort(stable=True)], owner.bincount(minlength=rows)


def attend_to(query: Tensor, key: Tensor, value: Tensor, columns: Tensor, counts: Counts) -> Tensor:
    """Softmax attention (R, d) of each query to its own keys; one that has none gets zeros.

    No key or value is copied: the products are sampled by a CSR pattern, the sums are weighted bags.

    Args:
        query: (R, d).
        key: (N, d).
        value: (N, d).
        columns: Numbers of the keys, query by query.
        counts: How many each query has.
    """
    rows = len(query)
    if isinstance(counts, int):
        begin = torch.arange(0, rows * counts + 1, counts)
    else:
        begin = F.pad(counts.cumsum(0), (1, 0))
    empty = query.new_zeros(len(columns))
    pattern = torch.sparse_csr_tensor(begin, columns, empty, size=(rows, len(key)), check_invariants=False)
    scale = query.shape[1] ** -0.5
    logits = torch.sparse.sampled_addmm(pattern, query, key.t(), beta=0.0, alpha=scale).values()
    if isinstance(counts, int):
        weights = logits.view(rows, counts).softmax(dim=1).flatten()
    else:
        weights = _softmax_of_groups(logits, counts)
    return F.embedding_bag(columns, value, begin[:-1], per_sample_weights=weights, mode="sum")


def _softmax_of_groups(logits: Tensor, counts: Tensor) -> Tensor:
    """Each so many in turn are a group."""
    largest = torch.segment_reduce(logits, "max", lengths=counts, unsafe=True)
    weights = (logits - largest.repeat_interleave(counts)).exp_()
    return weights / torch.segment_reduce(weights, "sum", lengths=counts, unsafe=True).repeat_interleave(counts)
