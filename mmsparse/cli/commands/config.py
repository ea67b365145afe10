"""Write a config as one self-contained file: Python, or JSON or YAML, which are data and no program."""

import argparse

from mmsparse import compat, env
from mmsparse.cli.arguments import add_config_options
from mmsparse.cli.config_files import read, writable
from mmsparse.configs import merge_options, write_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="IN", help="config file, or lib::path such as mmdet::swin/...py")
    parser.add_argument("out", metavar="OUT", help="the file to write: .py, .json or .yaml")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    add_config_options(parser)


def run(args: argparse.Namespace) -> None:
    env.require()
    compat.prepare()
    out = writable(args.out, args.overwrite)
    cfg = read(args.config)
    merge_options(cfg, args.cfg_options, args.config)
    write_config(cfg, out)
    print(f"wrote {args.out}")
