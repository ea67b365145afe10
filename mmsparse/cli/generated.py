"""What the commands that generate pictures share."""

import argparse
import sys
from pathlib import Path

from mmsparse.datasets.writer import DatasetArgs, write_dataset


def add_arguments(parser: argparse.ArgumentParser, name: str, sizes: str) -> None:
    parser.add_argument("out", type=Path, help="folder to write; nothing outside it is touched")
    parser.add_argument("--images", type=int, required=True, help="number of training pictures")
    parser.add_argument("--size", type=int, required=True, help=f"side in pixels, a multiple of 32 {sizes}")
    parser.add_argument("--seed", type=int, required=True, help="other seeds give other pictures")
    parser.add_argument("--val", type=int, help="number of held-out pictures (default: a fifth of --images)")
    parser.add_argument("--overwrite", action="store_true", help=f"replace generated {name} that lie in OUT")


def write(wanted: DatasetArgs, args: argparse.Namespace) -> int:
    try:
        written = write_dataset(args.out, wanted, args.overwrite)
    except OSError as error:  # a full disk does not say where
        raise OSError(f"cannot write {error.filename or args.out}: {error.strerror}") from error
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    total = f"{wanted.images} training and {wanted.val} held-out pictures"
    print(f"Wrote {total} to {args.out}" if written else f"{args.out} already holds these {total}: nothing to do")
    return 0
