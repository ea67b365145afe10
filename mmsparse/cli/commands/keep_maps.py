"""Pictures of where a trained network looked: input, keep map and predictions side by side."""

import argparse
from pathlib import Path

from mmengine.registry import VISUALIZERS
from tqdm import tqdm

from mmsparse.apis import find_deciders
from mmsparse.cli.arguments import add_config_options, add_keep_ratio, read_keep_ratio
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_model, read_test_set
from mmsparse.cli.launch import check_writable
from mmsparse.trust import add_trust, trust_checkpoints
from mmsparse.visualization.panels import draw_predictions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--out", required=True, help="folder for the pictures")
    parser.add_argument("--num-images", type=int, default=8)
    parser.add_argument("--score-thr", type=float, default=0.3, help="boxes below this score are not drawn")
    add_keep_ratio(parser)
    add_trust(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> None:
    trust_checkpoints(args.trust_checkpoint)
    cfg = open_config(args.config, args.cfg_options)
    check_writable(args.out, "out")
    model = build_model(cfg, args.checkpoint, read_keep_ratio(args))
    if not find_deciders(model):
        raise ValueError(f"{args.config} has no dynamic part: it looks everywhere, there is no keep map to draw")
    dataset = read_test_set(cfg)
    count = min(args.num_images, len(dataset))
    visualizer = VISUALIZERS.build({**cfg.visualizer, "vis_backends": None, "save_dir": None})
    visualizer.dataset_meta = dataset.metainfo
    for number in tqdm(range(count), desc="drawing"):
        draw_predictions(model, visualizer, dataset[number], Path(args.out) / f"{number:04d}.png", args.score_thr)
    print(f"{count} pictures in {args.out}")
