"""Write a public data set (DeepPCB, CamVid or BCCD) as configs/_base_/datasets read it."""

import argparse
import sys
from pathlib import Path

from mmsparse.datasets.public import LAYOUTS, convert_data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=list(LAYOUTS), help="which data set it is")
    homes = "; ".join(f"{layout.folder} of {layout.home}" for layout in LAYOUTS.values())
    parser.add_argument("source", type=Path, help=f"the folder as it is published: {homes}")
    parser.add_argument("out", type=Path, help="folder to write, data/KIND for the configs; nothing may be in it yet")


def run(args: argparse.Namespace) -> int:
    try:
        written = convert_data(args.kind, args.source, args.out)
    except OSError as error:  # a full disk does not say where
        raise OSError(f"cannot write {error.filename or args.out}: {error.strerror}") from error
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    train, val = written.pictures.values()
    left_out = f"; left out: {written.left_out} boxes without an area" if written.left_out else ""
    print(f"Wrote {train} training and {val} held-out pictures to {args.out}{left_out}")
    return 0
