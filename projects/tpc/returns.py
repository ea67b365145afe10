"""How many tokens return after a pause, layer by layer: ``python -m projects.tpc.returns CONFIG CHECKPOINT``."""

import argparse
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mmsparse.apis import record_selections
from mmsparse.calls import predict, prepare_batch
from mmsparse.cli.arguments import add_config_options, add_keep_ratio, read_keep_ratio
from mmsparse.cli.building import build_model, read_pictures
from mmsparse.cli.mistakes import say_mistakes
from mmsparse.configs import read_config
from mmsparse.trust import add_trust, trust_checkpoints


def returning(masks: Sequence[Tensor]) -> tuple[list[float], float]:
    """From the keep masks (B, N) of successive places.

    Returns:
        For each place but the first, the share of the tokens paused before it that it uses again; and the share of
        all ever paused tokens that are used again at any later place.
    """
    steps, ever, came_back = [], torch.zeros_like(masks[0]), torch.zeros_like(masks[0])
    for before, now in itertools.pairwise(masks):
        ever |= ~before
        came_back |= ever & now
        steps.append(((~before & now).sum() / (~before).sum().clamp_min(1)).item())
    return steps, (came_back.sum() / ever.sum().clamp_min(1)).item()


def roughness_of(mask: Tensor, grid: tuple[int, int]) -> float:
    """Share of neighbouring pairs of tokens that are decided differently."""
    cells = mask.unflatten(1, grid)
    across, down = cells[:, :, 1:] != cells[:, :, :-1], cells[:, 1:] != cells[:, :-1]
    return torch.cat([across.flatten(), down.flatten()]).float().mean().item()


def masks_of(model: nn.Module, picture: dict[str, Any]) -> tuple[list[str], list[Tensor], tuple[int, int]]:
    with torch.no_grad(), record_selections(model) as taken:
        predict(model, prepare_batch(model, [picture]))
    return [place for place, _ in taken], [selection.keep_mask for _, selection in taken], taken[0][1].grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--num-images", type=int, default=50)
    add_keep_ratio(parser)
    add_trust(parser)
    add_config_options(parser)
    args = parser.parse_args()
    trust_checkpoints(args.trust_checkpoint)
    cfg = read_config(args.config, args.cfg_options)
    model = build_model(cfg, args.checkpoint, read_keep_ratio(args))
    steps, total, rough = [], [], []
    for picture in tqdm(read_pictures(cfg, args.num_images), leave=False):
        places, masks, grid = masks_of(model, picture)
        each, ever = returning(masks)
        steps.append(each)
        total.append(ever)
        rough.append(sum(roughness_of(mask, grid) for mask in masks) / len(masks))
    for place, values in zip(places[1:], zip(*steps, strict=True), strict=True):
        print(f"{place:<6} {sum(values) / len(values):6.1%} of the tokens that were paused before it are used again")
    print(f"{sum(total) / len(total):.1%} of all that were ever paused are used again at a later place")
    print(f"{sum(rough) / len(rough):.1%} of neighbouring tokens are decided differently")


if __name__ == "__main__":
    with say_mistakes():
        main()
