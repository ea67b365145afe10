"""Write a data set of generated circuit boards with defects: COCO annotations and label maps."""

import argparse

from mmsparse.cli import generated
from mmsparse.datasets.board_style import STYLES
from mmsparse.datasets.boards import DEFECTS, SIZES
from mmsparse.datasets.boards_io import BoardsArgs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    generated.add_arguments(parser, BoardsArgs.name, f"from {SIZES[0]} to {SIZES[1]}")
    parser.add_argument("--defects", type=float, default=DEFECTS, help="mean number a picture (default: %(default)s)")
    parser.add_argument("--colour", action="store_true", help="pictures in colour; without it they are grey")
    parser.add_argument("--style", choices=STYLES, default="plain", help="look of the boards (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    more = (args.defects, args.colour, args.style)
    return generated.write(BoardsArgs(args.images, args.size, args.seed, args.val, *more), args)
