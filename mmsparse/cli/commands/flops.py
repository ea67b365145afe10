"""Multiply-accumulates of a config's model: dense and executed, by backbone, neck and head, over real pictures."""

import argparse
from typing import Any

from tqdm import tqdm

from mmsparse.analysis import fit_keep_ratio
from mmsparse.analysis.report import macs_table, picture_macs
from mmsparse.apis import get_keep_ratio
from mmsparse.calls import predict, prepare_batch
from mmsparse.cli.arguments import add_config_options, add_keep_ratio, positive, read_keep_ratio
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_model, random_pictures, read_pictures
from mmsparse.cli.numbers import add_json
from mmsparse.trust import add_trust, trust_checkpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config")
    parser.add_argument("--checkpoint", help="weights; per-image budgets and RoI heads need them to be meaningful")
    add_keep_ratio(parser)
    parser.add_argument("--macs", type=float, help="scale the keep ratios to this share of the dense")
    parser.add_argument("--num-images", type=positive, default=20, help="pictures of the test set to average over")
    parser.add_argument(
        "--shape", type=positive, nargs=2, metavar=("H", "W"), help="one random picture instead of real ones"
    )
    add_json(parser)
    add_trust(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    trust_checkpoints(args.trust_checkpoint)
    cfg = open_config(args.config, args.cfg_options)
    model = build_model(cfg, args.checkpoint, read_keep_ratio(args))
    if args.shape:
        pictures = random_pictures(cfg, 1, tuple(args.shape))
    else:
        pictures = read_pictures(cfg, args.num_images, instead=", or take a random picture with --shape H W")
    kind = (
        f"a random {args.shape[0]}x{args.shape[1]} picture"
        if args.shape
        else f"{len(pictures)} pictures of the test set"
    )
    if args.macs is not None:
        batch = prepare_batch(model, pictures[:1])
        fit_keep_ratio(model, args.macs, lambda: predict(model, batch))
        print(f"the keep ratios below leave {args.macs:.0%} of the first picture's dense arithmetic")
    print(f"{args.config}\nmean over {kind}, batch 1; 1 MAC = 1 FLOP as papers and OpenMMLab count")
    ratios = {place: round(ratio, 4) for place, ratio in get_keep_ratio(model).items()}
    print(f"keep ratio: {ratios or 'no dynamic part'}")
    macs = picture_macs(model, tqdm(pictures, desc="counting", leave=False))
    print(macs_table(macs))
    return {"pictures": len(pictures), "keep_ratio": ratios, "macs": macs.means()}
