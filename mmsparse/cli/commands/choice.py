"""Does the slow path go where it matters, and what does the choice cost? The first thing to ask of a bad result."""

import argparse
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mmsparse.analysis.choice import shares
from mmsparse.apis import find_deciders
from mmsparse.cli.arguments import add_config_options, add_keep_ratio, positive, read_keep_ratio
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import read_test_set
from mmsparse.cli.choosing import (
    NARROWER,
    OWN_SCORES,
    check_labels,
    macs_of,
    metrics_of,
    narrower_network,
    say_metrics,
    say_shares,
    with_labels,
)
from mmsparse.cli.launch import check_writable, prepare_work_dir
from mmsparse.cli.numbers import add_json
from mmsparse.cli.preflight import check_testing
from mmsparse.files import write_whole
from mmsparse.trust import add_trust, trust_checkpoints
from mmsparse.visualization.choice import draw_shares


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config")
    parser.add_argument("checkpoint")
    parser.add_argument("--dense", help="a checkpoint of the dense network, to tell what training lost")
    parser.add_argument(
        "--narrower", nargs=2, metavar=("CONFIG", "CHECKPOINT"),
        help="a trained narrower network, to tell what width is worth and how much of it routing keeps",
    )  # fmt: skip
    parser.add_argument("--num-images", type=positive, default=100, help="pictures of the test set to look at")
    parser.add_argument("--no-metrics", action="store_true", help="only look, in a tenth of the time")
    parser.add_argument("--out", help="folder for choice.json and choice.png; default ./work_dirs/<config name>/choice")
    add_keep_ratio(parser)
    add_json(parser)
    add_trust(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    trust_checkpoints(args.trust_checkpoint)
    cfg = open_config(args.config, args.cfg_options)
    out = Path(args.out or Path("work_dirs") / Path(args.config).stem / "choice")
    check_writable(out, "out")
    prepare_work_dir(cfg, str(out), args.config)
    cfg.load_from, cfg.resume = None, False
    with_labels(cfg)
    built = check_testing(cfg, args.checkpoint, read_keep_ratio(args))
    model = built.model.eval()
    if not find_deciders(model):
        raise ValueError(f"{args.config} has no dynamic part: it looks everywhere, there is no choice to look at")
    if args.narrower and args.no_metrics:
        raise ValueError("Argument `narrower`: what width is worth is told by the metric; leave out --no-metrics")
    narrower = narrower_network(cfg, *args.narrower) if args.narrower else None
    dataset = read_test_set(cfg)
    check_labels(dataset[0], args.config)
    count = min(args.num_images, len(dataset))
    pictures = (dataset[number] for number in tqdm(range(count), desc="looking", leave=False))
    found = dict(pictures=count, shares=shares(model, pictures))
    print(f"{args.config}\n{say_shares(model, found['shares'], count)}")
    if not args.no_metrics:
        if narrower:
            networks = {OWN_SCORES: model, NARROWER: narrower[1].model.eval()}
            found["macs"] = {who: macs_of(network, dataset[0]) for who, network in networks.items()}
        found["metrics"] = metrics_of(cfg, built, args.dense, narrower)
        print(say_metrics(found["metrics"], found.get("macs")))
    write_whole(json.dumps(found, indent=1), out / "choice.json")
    budgets = {decider.name: decider.keep_ratio for decider in find_deciders(model)}
    draw_shares(out / "choice.png", found["shares"], budgets, found.get("metrics"))
    print(f"{out / 'choice.json'}\n{out / 'choice.png'}")
    return found
