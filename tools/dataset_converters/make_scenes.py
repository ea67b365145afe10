"""Write a data set of generated scenes: COCO annotations for detectors, ADE20K-like label maps for segmenters."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmsparse.datasets.scenes_io import ScenesArgs, write_scenes
from mmsparse.mistakes import is_mistake


def parse_args(argv: Sequence[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write; nothing outside it is touched")
    parser.add_argument("--images", type=int, required=True, help="number of training pictures")
    parser.add_argument("--size", type=int, required=True, help="side in pixels, a multiple of 32 from 64 up")
    parser.add_argument("--seed", type=int, required=True, help="other seeds give other pictures")
    parser.add_argument("--val", type=int, help="number of held-out pictures (default: a fifth of --images)")
    parser.add_argument("--overwrite", action="store_true", help="replace generated scenes that lie in OUT")
    return parser, parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    parser, args = parse_args(argv)
    try:
        wanted = ScenesArgs(args.images, args.size, args.seed, args.val)
        written = write_scenes(args.out, wanted, args.overwrite)
    except ValueError as error:
        if not is_mistake(error):
            raise
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except OSError as error:
        parser.exit(2, f"{parser.prog}: error: cannot write {error.filename or args.out}: {error.strerror}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted; the same command continues\n")
    total = f"{wanted.images} training and {wanted.val} held-out pictures"
    print(f"Wrote {total} to {args.out}" if written else f"{args.out} already holds these {total}: nothing to do")
    return 0


if __name__ == "__main__":
    sys.exit(main())
