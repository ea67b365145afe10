"""Write the dynamic twin of a dense config as one self-contained file, and print what changed."""

import argparse
import re
from typing import Any

from mmengine.config import Config

from mmsparse import compat, env, sparsify
from mmsparse.cli.arguments import Pairs
from mmsparse.cli.config_files import read, writable
from mmsparse.data_configs import write_config
from mmsparse.mistakes import is_mistake

FLAGS = re.compile("`(keep_ratio|sparsity|neck|head|teacher)`")  # arguments of sparsify, as its errors name them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="IN", help="config file, or lib::path such as mmdet::swin/...py")
    parser.add_argument("out", metavar="OUT", help="the file to write: .py, .json or .yaml")
    parser.add_argument("--keep-ratio", type=float, nargs="+", default=[0.7], help="one number, or one per place")
    parser.add_argument(
        "--sparsity",
        nargs="+",
        action=Pairs,
        help="key=value pairs of the backbone's argument `sparsity`, such as explore=0.5 scorer.type=MLPScorer",
    )
    parser.add_argument("--neck", action="store_true", help="route the 3x3 convolutions of the neck, too")
    parser.add_argument("--head", action="store_true", help="route the heads, too, and deformable encoders")
    parser.add_argument("--no-train", action="store_true", help="a network that dense weights are used in as they are")
    parser.add_argument("--teacher", choices=["twin", "self"], help="add a TeacherHook: who teaches")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")


def run(args: argparse.Namespace) -> None:
    env.require()
    compat.prepare()
    ratio = args.keep_ratio[0] if len(args.keep_ratio) == 1 else args.keep_ratio
    try:
        out = writable(args.out, args.overwrite)
        dense = read(args.config)
        sparsity = nested(args.sparsity or {})
        parts = dict(neck=args.neck, head=args.head, teacher=args.teacher, train=not args.no_train)
        dynamic = sparsify(dense, ratio, sparsity=sparsity, **parts)
    except (ValueError, TypeError, OSError) as error:
        if not is_mistake(error):
            raise
        raise type(error)(FLAGS.sub(lambda name: "`--" + name[1].replace("_", "-") + "`", str(error))) from error
    write_config(dynamic, out)
    old, new = leaves(dense.to_dict()), leaves(dynamic.to_dict())
    for key in sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)):
        print(f"{key}: {old.get(key, 'absent')!r} -> {new.get(key, 'absent')!r}")
    print(f"wrote {args.out}")


def nested(pairs: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys name keys of inner dicts, as in --cfg-options."""
    cfg = Config()
    cfg.merge_from_dict(pairs)
    return cfg.to_dict()


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(
            leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
        )
    return flat
