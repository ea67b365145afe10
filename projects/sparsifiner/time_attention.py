"""Time the attention of one DeiT-S block with chosen keys beside the dense one, and its parts, in turn on this CPU."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from mmsparse.analysis import compare_latency
from mmsparse.models.backbones.routed_attention import Tokens

from .connectivity import CACHED, ConnectivityPredictor, Shape
from .sparse_attention import attend_to, columns_of

HEADS, DIMS, BASE = 6, 64, (14, 14)
GRIDS = ((32, 32), (50, 84))  # 1024 and 4200 tokens: pictures of 512x512 and 800x1344


def predictor_of(keep_ratio: float, tile: int = 1, threshold: float | None = None) -> ConnectivityPredictor:
    """As in a DeiT-S for 224x224 without class token, untrained."""
    predictor = ConnectivityPredictor("timed", Shape(DIMS, HEADS, BASE, 0, 32, DIMS // 2, 8, 0.02, threshold, tile))
    predictor.keep_ratio = keep_ratio
    return predictor


def parts_of(predictor: ConnectivityPredictor, parts: tuple[torch.Tensor, ...], grid: Any) -> dict[str, Callable]:
    """What the sparse attention consists of, each as a function of its own."""
    query, key, value = (part.flatten(0, 2) for part in parts)
    total = grid[0] * grid[1]
    weights, maps = predictor._strongest(parts[0], parts[1], grid)
    basis = predictor._basis(grid, None)
    rows = torch.arange(len(query)).split(CACHED // basis.shape[1])
    scores = [F.embedding_bag(maps[r], basis, per_sample_weights=weights[r], mode="sum") for r in rows]
    columns = [columns_of(predictor._best(score, grid, total)) for score in scores]
    firsts = [(r // total * total)[:, None] for r in rows]

    def guess() -> None:
        predictor._strongest(parts[0], parts[1], grid)
        for r in rows:
            F.embedding_bag(maps[r], basis, per_sample_weights=weights[r], mode="sum")

    def choose() -> None:
        for score in scores:
            columns_of(predictor._best(score, grid, total))

    def attend() -> None:
        for r, (column, count), first in zip(rows, columns, firsts, strict=True):
            attend_to(query[r], key, value, column + first, count)

    return {"guess": guess, "choose": choose, "attend": attend}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep-ratio", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="CPU threads; default: all that torch takes")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, keep ratio {args.keep_ratio}, "
          f"median of {args.rounds} rounds in turn; ms")  # fmt: skip
    for grid in GRIDS:
        parts = tuple(torch.randn(1, HEADS, grid[0] * grid[1], DIMS) for _ in range(3))
        runs = {"dense": lambda parts=parts: F.scaled_dot_product_attention(*parts)}
        for tile in (1, 2, 4):
            predictor = predictor_of(args.keep_ratio, tile)
            runs[f"tile {tile}"] = partial(predictor.attend, *parts, Tokens(grid, 0), 0.0)
            if tile == 1:
                runs.update(parts_of(predictor, parts, grid))
        times = compare_latency(runs, args.rounds, 2)
        print(f"{grid[0] * grid[1]} tokens", flush=True)
        for name, latency in times.items():
            print(f"  {name:<8}{latency.median:9.1f}  dense / this {latency.speedup:5.2f}x")


if __name__ == "__main__":
    main()
