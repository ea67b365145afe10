"""Draw which keys a few queries of a trained network attend to, over pictures of the config's test set."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from mmsparse.calls import predict, prepare_batch
from mmsparse.cli.arguments import add_config_options
from mmsparse.cli.building import build_model, read_test_set
from mmsparse.cli.launch import check_writable
from mmsparse.cli.mistakes import say_mistakes
from mmsparse.configs import read_config
from mmsparse.models.backbones.routed_attention import Tokens
from mmsparse.trust import add_trust, trust_checkpoints

from .connectivity import ConnectivityPredictor
from .sparsifiner_vit import SparsifinerViT

BLOCK = 128  # what kernels for block-sparse attention on GPUs compute or skip as a whole
QUERIES = ((0.25, 0.25), (0.5, 0.5), (0.75, 0.6))  # down and right, as parts of the picture


@contextmanager
def record_keys(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the masks (B, heads, extra + N, extra + N) of what is attended to inside a with-block, block by block."""
    taken: list[Tensor] = []
    predictors = [module for module in model.modules() if isinstance(module, ConnectivityPredictor)]

    def watched(predictor: ConnectivityPredictor, attend: Any) -> Any:
        def attend_and_note(query: Tensor, key: Tensor, value: Tensor, tokens: Tokens, dropout: float) -> Tensor:
            if tokens.numbers is not None:
                raise ValueError("record_keys: tokens are left out by `sparsity`, draw a network without it")
            taken.append(predictor.seen(query, key, tokens)[0])
            return attend(query, key, value, tokens, dropout)

        return attend_and_note

    for predictor in predictors:
        predictor.attend = watched(predictor, predictor.attend)
    try:
        yield taken
    finally:
        for predictor in predictors:
            del predictor.attend


def key_shares(masks: Sequence[Tensor], extra: int, grid: tuple[int, int], query: tuple[int, int]) -> np.ndarray:
    """Share of the heads of all blocks in which one query of the first picture attends to each location, (H, W).

    Args:
        masks: What ``record_keys`` collected.
        extra: Number of tokens before the map's.
        grid: Of the map.
        query: Row and column.
    """
    row = extra + query[0] * grid[1] + query[1]
    shares = torch.stack([mask[0, :, row, extra:].float().mean(dim=0) for mask in masks]).mean(dim=0)
    return shares.view(grid).cpu().numpy()


def occupied_blocks(masks: Sequence[Tensor], side: int = BLOCK) -> float:
    """Share of the blocks of side x side queries and keys that hold a chosen key, which a kernel cannot skip."""
    shares = []
    for mask in masks:
        pooled = F.max_pool2d(mask.flatten(0, 1).unsqueeze(1).float(), side, ceil_mode=True)
        shares.append(pooled.mean())
    return torch.stack(shares).mean().item()


def draw(path: str | Path, image: np.ndarray, maps: Sequence[tuple[tuple[int, int], np.ndarray]]) -> None:
    """Write a picture, and for each query the keys that it attends to, side by side.

    Args:
        path: The PNG to write.
        image: (h, w, 3) RGB uint8.
        maps: Of each query its location and its ``key_shares``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from matplotlib.figure import Figure

    height, width = image.shape[:2]
    pale = 0.6 * image.mean(axis=2) + 100  # so that the colour is seen on it
    most = max(share.max() for _, share in maps)
    red = LinearSegmentedColormap.from_list("red", [(0.8, 0, 0, 0), (0.8, 0, 0, 0.9)])  # from clear to red
    figure = Figure(figsize=(3.4 * (len(maps) + 1) + 0.8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(maps) + 1)
    axes[0].imshow(image)
    axes[0].set_title("input, and the queries", fontsize=10)
    for number, (axis, ((row, column), share)) in enumerate(zip(axes[1:], maps, strict=True), 1):
        where = ((column + 0.5) * width / share.shape[1], (row + 0.5) * height / share.shape[0])
        axis.imshow(pale, cmap="gray", vmin=0, vmax=255)
        axis.imshow(share, cmap=red, vmin=0, vmax=most, extent=(0, width, height, 0))
        axis.plot(*where, "c+", markersize=12, markeredgewidth=2)
        axis.set_title(f"keys of query {number}: {share.mean():.0%} of the map", fontsize=10)
        axes[0].annotate(str(number), where, color="white", ha="center", va="center", fontsize=9,
                         bbox=dict(boxstyle="circle", facecolor="black", alpha=0.7))  # fmt: skip
    for axis in axes:
        axis.axis("off")
    bar = figure.colorbar(ScalarMappable(Normalize(0, most), red), ax=list(axes[1:]), fraction=0.03, pad=0.01)
    bar.set_label("share of blocks and heads that attend", fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_keys(model: nn.Module, picture: dict[str, Any], path: str | Path) -> float:
    """Write one sample of a test set and the keys of ``QUERIES`` in it; return its ``occupied_blocks``."""
    backbone = model.backbone
    batch = prepare_batch(model, [picture])
    with torch.no_grad(), record_keys(model) as masks:
        predict(model, batch)
    if not masks:
        raise ValueError(f"{type(backbone).__name__} attends densely: there are no chosen keys to draw")
    high, wide = backbone.patch_embed.projection.stride
    grid = (-(-batch["inputs"].shape[2] // high), -(-batch["inputs"].shape[3] // wide))
    maps = []
    for down, right in QUERIES:
        query = int(down * grid[0]), int(right * grid[1])
        maps.append((query, key_shares(masks, backbone.num_extra_tokens, grid, query)))
    image = picture["inputs"].permute(1, 2, 0).numpy()[..., ::-1]  # the pipeline reads BGR
    draw(path, image, maps)
    return occupied_blocks(masks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--out", required=True, help="folder for the pictures")
    parser.add_argument("--num-images", type=int, default=4)
    add_trust(parser)
    add_config_options(parser)
    args = parser.parse_args()
    trust_checkpoints(args.trust_checkpoint)
    cfg = read_config(args.config, args.cfg_options)
    check_writable(args.out, "out")
    model = build_model(cfg, args.checkpoint)
    if not isinstance(getattr(model, "backbone", None), SparsifinerViT) or model.backbone.predictor is None:
        raise ValueError(f"{args.config} has no predictors: give its backbone `connectivity`")
    dataset = read_test_set(cfg)
    occupied = []
    for number in tqdm(range(min(args.num_images, len(dataset))), desc="drawing"):
        occupied.append(draw_keys(model, dataset[number], Path(args.out) / f"{number:04d}.png"))
    if occupied:
        print(
            f"{np.mean(occupied):.1%} of the masks' blocks of {BLOCK}x{BLOCK} hold a chosen key: no kernel skips these"
        )


if __name__ == "__main__":
    with say_mistakes():
        main()
