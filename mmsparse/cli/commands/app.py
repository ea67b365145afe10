"""A local web page: drop a picture, and see what the routed and the dense network find, where it looked, at which cost.

It needs Gradio (pip install 'mmsparse[app]'), sends nothing anywhere and is there for this machine alone, unless --host
says otherwise.
"""

import argparse
from pathlib import Path

from mmsparse.cli.app import check_gradio, listen, make_page, serve
from mmsparse.cli.arguments import add_config_options
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_model
from mmsparse.cli.inferring import check_predictable
from mmsparse.cli.picture_files import find_pictures
from mmsparse.cli.viewing import Limits, Viewer, check_lookable
from mmsparse.trust import add_trust, trust_checkpoints


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config")
    parser.add_argument("checkpoint", help="a checkpoint of this config or of its dense twin")
    parser.add_argument("pictures", nargs="*", help="files, folders or patterns, to choose from on the page")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: everybody in the network may use it")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--max-mb", type=float, default=20, help="larger files are refused")
    parser.add_argument("--max-pixels", type=int, default=16_000_000, help="larger pictures are refused")
    parser.add_argument("--rounds", type=int, default=3, help="how often each network is timed for a picture; 0: not")
    parser.add_argument("--score-thr", type=float, default=0.3, help="boxes below this score are not drawn")
    add_trust(parser)
    add_config_options(parser)


def run(args: argparse.Namespace) -> None:
    check_gradio()
    trust_checkpoints(args.trust_checkpoint)
    limits = Limits(args.max_mb, args.max_pixels)
    if args.rounds < 0:
        raise ValueError(f"Expected argument `rounds` to be at least 0, but got {args.rounds}")
    pictures = find_pictures(args.pictures)
    with listen(args.host, args.port) as door:
        cfg = open_config(args.config, args.cfg_options)
        check_predictable(cfg)
        model = build_model(cfg, args.checkpoint)
        check_lookable(model, args.config)
        viewer = Viewer(model, cfg, limits, args.score_thr, args.rounds)
        title = f"{Path(args.config).stem}, {Path(args.checkpoint).name}"
        serve(make_page(viewer, title, pictures), door, args.max_mb)
