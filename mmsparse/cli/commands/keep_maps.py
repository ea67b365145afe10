"""Pictures of where a trained network looked: input, keep map and predictions side by side.

--out: a PNG of each picture. --html: one page to be mailed, with the dense network's predictions, a keep map of every
place and the arithmetic.
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from mmsparse.cli.arguments import add_config_options, add_keep_ratio, positive, read_keep_ratio
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_model, read_test_set
from mmsparse.cli.launch import check_writable
from mmsparse.cli.viewing import check_lookable, visualizer_of
from mmsparse.files import write_whole
from mmsparse.trust import add_trust, trust_checkpoints
from mmsparse.visualization.looking import look
from mmsparse.visualization.page import document
from mmsparse.visualization.panels import draw_predictions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--out", type=Path, help="folder for a PNG of each picture")
    parser.add_argument("--html", type=Path, help="file for one page of them all")
    parser.add_argument("--num-images", type=positive, default=8)
    parser.add_argument("--score-thr", type=float, default=0.3, help="boxes below this score are not drawn")
    add_keep_ratio(parser)
    add_trust(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> None:
    trust_checkpoints(args.trust_checkpoint)
    if args.out is None and args.html is None:
        raise ValueError("Give a folder for pictures (--out), a file for a page (--html), or both")
    cfg = open_config(args.config, args.cfg_options)
    if args.out is not None:
        check_writable(args.out, "out")
    if args.html is not None:
        if args.html.is_dir():
            raise ValueError(f"Expected argument `html` to be a file, but {str(args.html)!r} is a folder")
        check_writable(args.html.parent, "html")
    model = build_model(cfg, args.checkpoint, read_keep_ratio(args))
    check_lookable(model, args.config)
    dataset = read_test_set(cfg)
    count = min(args.num_images, len(dataset))
    visualizer = visualizer_of(cfg, dataset.metainfo)
    looks = []
    for number in tqdm(range(count), desc="drawing"):
        picture = dataset[number]
        if args.out is not None:
            draw_predictions(model, visualizer, picture, args.out / f"{number:04d}.png", args.score_thr)
        if args.html is not None:
            name = Path(picture["data_samples"].metainfo.get("img_path", f"{number:04d}")).name
            looks.append(look(model, visualizer, picture, name, score_thr=args.score_thr))
    if args.html is not None:
        title = f"{Path(args.config).stem}, {Path(args.checkpoint).name}"
        write_whole(document(looks, title), args.html)
        print(f"{count} pictures in {args.html}")
    if args.out is not None:
        print(f"{count} pictures in {args.out}")
