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
        if _how_many(mask) != count * len(scores):
            rows = (mask.sum(dim=1) > count).nonzero().squeeze(1)
            mask[rows] = _without_late_ties(scores[rows], limit[rows], count)
        if bool(limit.isneginf().any()):
            mask &= scores > -torch.inf
    return mask if threshold is None else mask.logical_and_(scores > threshold)


def _how_many(mask: Tensor) -> int:
    return int(mask.count_nonzero()) if mask.device.type != "cpu" else int(np.count_nonzero(mask.numpy()))


def _without_late_ties(scores: Tensor, limit: Tensor, count: int) -> Tensor:
    """What is larger than the limit, and of what equals it the first that there is room for."""
    larger, tied = scores > limit, scores == limit
    room = count - larger.sum(dim=1, keepdim=True)
    return larger | (tied & (tied.cumsum(dim=1) <= room))


def _kth_largest(scores: Tensor, count: int) -> Tensor:
    """(R, 1). On a CPU by NumPy, whose vectorised selection takes a fraction of the time of torch.topk."""
    if scores.device.type != "cpu":
        return scores.topk(count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    at = scores.shape[1] - count
    return torch.from_numpy(np.partition(scores.numpy(), at, axis=1)[:, at : at + 1].copy())


def columns_of(mask: Tensor) -> tuple[Tensor, Counts]:
    """Column numbers of the True entries of (R, n), row by row, and how many each row has.

    They are (R, k) if every row has as many, else flat.
    """
    flat = torch.from_numpy(np.flatnonzero(mask.numpy()))  # faster than torch's, which gives both coordinates
    rows, width = mask.shape
    common, left = divmod(len(flat), rows)
    if common and not left:
        columns = flat.view(rows, common) - torch.arange(0, rows * width, width).unsqueeze(1)
        if bool((columns[:, 0] >= 0).all()) and bool((columns[:, -1] < width).all()):
            return columns, common
    return flat % width, mask.sum(dim=1)


def keys_of(tiles: Tensor, members: Tensor, extra: int) -> tuple[Tensor, Tensor | None]:
    """Column numbers (R, k) of the tiles (R, t) of each row, behind the extra tokens, which every row has.

    ``members`` are the locations of each tile (tiles, size), -1 where there is none. Those come out as any number, and
    as True in a mask (R, k); None if there are none.
    """
    columns = (members + extra).index_select(0, tiles.flatten()).view(len(tiles), -1)
    if extra:
        columns = torch.cat([torch.arange(extra).expand(len(tiles), -1), columns], dim=1)
    if int(members.min()) >= 0:
        return columns, None
    missing = columns < extra
    missing[:, :extra] = False
    return columns.clamp_(min=0), missing


def attend_to(
    query: Tensor, key: Tensor, value: Tensor, columns: Tensor, counts: Counts, missing: Tensor | None = None
) -> Tensor:
    """Softmax attention (R, d) of each query to its own keys; one that has none gets zeros.

    No key or value is copied: the products are sampled by a CSR pattern, the sums are weighted bags.

    Args:
        query: (R, d).
        key: (N, d).
        value: (N, d).
        columns: Numbers of the keys, query by query, flat or (R, k).
        counts: How many each query has.
        missing: Boolean (R, counts), keys that are none after all.
    """
    rows, columns = len(query), columns.flatten()
    if isinstance(counts, int):
        begin = torch.arange(0, rows * counts + 1, counts)
    else:
        begin = F.pad(counts.cumsum(0), (1, 0))
    empty = query.new_zeros(len(columns))
    pattern = torch.sparse_csr_tensor(begin, columns, empty, size=(rows, len(key)), check_invariants=False)
    scale = query.shape[1] ** -0.5
    logits = torch.sparse.sampled_addmm(pattern, query, key.t(), beta=0.0, alpha=scale).values()
    if isinstance(counts, int):
        logits = logits.view(rows, counts)
        weights = (logits if missing is None else logits.masked_fill_(missing, -torch.inf)).softmax(dim=1).flatten()
    else:
        weights = _softmax_of_groups(logits, counts)
    return F.embedding_bag(columns, value, begin[:-1], per_sample_weights=weights, mode="sum")


def _softmax_of_groups(logits: Tensor, counts: Tensor) -> Tensor:
    """Each so many in turn are a group."""
    largest = torch.segment_reduce(logits, "max", lengths=counts, unsafe=True)
    weights = (logits - largest.repeat_interleave(counts)).exp_()
    return weights / torch.segment_reduce(weights, "sum", lengths=counts, unsafe=True).repeat_interleave(counts)
