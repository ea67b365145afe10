"""Options that several commands have."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import DictAction

from mmsparse.deploy import FORMATS


class Pairs(DictAction):
    """mmengine's ``key=value`` pairs; one without a value is a mistake of the user."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Sequence[str], *option: Any
    ) -> None:
        for value in values:
            if "=" not in value:
                raise argparse.ArgumentError(self, f"expected key=value, but got {value!r}")
        try:
            super().__call__(parser, namespace, values, *option)
        except RecursionError as error:  # of mmengine's parser
            told = "lists and tuples of numbers and words can be read; for a dict give each key as a.b.c=value"
            raise argparse.ArgumentError(self, f"{told}, but got {' '.join(values)!r}") from error


def positive(text: str) -> int:
    """The type of an argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, but got {text!r}")
    return int(text)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cfg-options", nargs="+", action=Pairs, help="key=value pairs merged into the config")


def add_launcher(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def set_local_rank(args: argparse.Namespace) -> None:
    """mmengine reads the environment alone."""
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))


def add_runtime(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runtime", metavar="NAME|FOLDER",
        help="let an exported network run instead: its folder, or the name of the runtime where it lies as "
        "`mmsparse export` leaves it",
    )  # fmt: skip


def check_runtime(args: argparse.Namespace) -> None:
    if args.runtime and args.keep_ratio:
        raise ValueError("--keep-ratio has no effect on an exported network (--runtime): export with --keep-ratio")


def export_folder(runtime: str, config: str) -> Path:
    """Where an exported network is that is given by its folder, or by a runtime's name."""
    return Path("work_dirs") / Path(config).stem / runtime if runtime in FORMATS else Path(runtime)


def add_keep_ratio(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep-ratio", type=float, nargs="+", help="another budget: one number, or one per place")


def read_keep_ratio(args: argparse.Namespace) -> float | list[float] | None:
    """One number stays a number, so that the paper's rule expands it."""
    return args.keep_ratio[0] if args.keep_ratio and len(args.keep_ratio) == 1 else args.keep_ratio
