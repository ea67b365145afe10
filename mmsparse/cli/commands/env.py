"""What is installed of the OpenMMLab packages, which operators are served, and what is in the way."""

import argparse
from typing import Any

from mmsparse import env
from mmsparse.cli.numbers import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    found = env.look()
    env.say(found)
    return {**found, "status": 1 if found["problems"] else 0}
