"""What is installed of the OpenMMLab packages, which operators are served, and what is in the way."""

import argparse

from mmsparse import env


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(args: argparse.Namespace) -> int:
    return env.main()
