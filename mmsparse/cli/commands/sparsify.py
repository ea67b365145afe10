"""Write the dynamic twin of a dense config as one self-contained file, and print what changed."""

import argparse
import re
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmsparse import compat, env, sparsify
from mmsparse.cli.arguments import Pairs
from mmsparse.cli.launch import check_writable
from mmsparse.mistakes import is_mistake

FLAGS = re.compile("`(keep_ratio|sparsity|neck|head|teacher)`")  # arguments of sparsify, as its errors name them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="IN", help="config file, or lib::path such as mmdet::swin/...py")
    parser.add_argument("out", metavar="OUT", help="the file to write")
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
    out.parent.mkdir(parents=True, exist_ok=True)
    dynamic.dump(out)
    old, new = leaves(dense.to_dict()), leaves(dynamic.to_dict())
    for key in sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)):
        print(f"{key}: {old.get(key, 'absent')!r} -> {new.get(key, 'absent')!r}")
    print(f"wrote {args.out}")


def writable(path: str, overwrite: bool) -> Path:
    if not path.endswith(".py"):
        raise ValueError(f"Expected argument `OUT` to be a .py file, but got {path!r}")
    if Path(path).exists() and not overwrite:
        raise FileExistsError(f"{path} is there already. Name another file, or add --overwrite")
    check_writable(Path(path).parent, "OUT")
    return Path(path)


def nested(pairs: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys name keys of inner dicts, as in --cfg-options."""
    cfg = Config()
    cfg.merge_from_dict(pairs)
    return cfg.to_dict()


def read(path: str) -> Config:
    """As it stands: nothing is fitted to this machine."""
    if "::" not in path and not Path(path).is_file():
        raise FileNotFoundError(f"Expected argument `IN` to be a config file or lib::path, but got {path!r}")
    try:
        return compat.load_config(path)
    except Exception as error:  # a config is a program, and mmengine has no error of its own for an unknown name
        kind = "a config that is installed" if "::" in path else "a config file"
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"Expected argument `IN` to be {kind}, but got {path!r} ({reason})") from error


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(
            leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
        )
    return flat
