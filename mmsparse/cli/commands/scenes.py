"""Write a data set of generated scenes: COCO annotations for detectors, ADE20K-like label maps for segmenters."""

import argparse

from mmsparse.cli import generated
from mmsparse.datasets.scenes_io import ScenesArgs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    generated.add_arguments(parser, ScenesArgs.name, "from 64 up")


def run(args: argparse.Namespace) -> int:
    return generated.write(ScenesArgs(args.images, args.size, args.seed, args.val), args)
