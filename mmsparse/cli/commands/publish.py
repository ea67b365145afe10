"""Make a training checkpoint fit to be published: weights and meta only, the hash of the file in its name.

Absolute paths in its config become names. With an EMA hook a checkpoint holds every weight twice; the averaged ones
stay, which validation used, and with ``--no-ema`` the trained ones.
"""

import argparse
import hashlib
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from mmsparse.checkpoints import read_checkpoint
from mmsparse.cli.checkpoint_files import to_bytes
from mmsparse.cli.launch import check_writable
from mmsparse.files import write_whole
from mmsparse.trust import add_trust, trust_checkpoints

KEPT = ("meta", "state_dict")
FOLDERS = re.compile(r"""(?<=['"])/[^'"]*/(?=[^'"]*['"])""")  # of absolute paths, which are of one machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("src", help="checkpoint of a training run")
    parser.add_argument("dst", type=Path, help="name of the result; becomes <name>-<first 8 digits of its sha256>.pth")
    parser.add_argument("--no-ema", action="store_true", help="publish the trained weights, not their average")
    parser.add_argument("--half", action="store_true", help="in half precision: half of the bytes, three digits")
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    trust_checkpoints(args.trust_checkpoint)
    check_writable(args.dst.parent, "dst")
    content = read_checkpoint(args.src, "src")
    if _is_published(Path(args.src)):
        raise ValueError(f"Argument `src`: {args.src} is published already: its name holds the hash of its content")
    data = to_bytes(published(content, args.src, not args.no_ema, args.half))
    path = args.dst.with_name(f"{args.dst.name.removesuffix('.pth')}-{hashlib.sha256(data).hexdigest()[:8]}.pth")
    write_whole(data, path)
    dropped = [key for key in content if key not in KEPT]
    print(
        f"{path}\n  kept: {len(content['state_dict'])} weights and meta\n  dropped: {', '.join(dropped) or 'nothing'}"
    )


def published(content: dict[str, Any], src: str, ema: bool, half: bool) -> dict[str, Any]:
    """The part of a training checkpoint that users of the model need."""
    if not isinstance(content.get("state_dict"), dict) or not content["state_dict"]:
        holds = f"{len(content)} keys, such as {sorted(map(str, content))[:3]}"
        raise ValueError(
            f"Argument `src`: expected a checkpoint of mmengine with a state_dict, but {src} holds {holds}"
        )
    state = dict(content["state_dict"])
    if not ema:
        if "ema_state_dict" not in content:
            raise ValueError(f"--no-ema: {src} was trained without EMA; leave the option out")
        # mmengine swaps the two on saving: the trained weights wait under the name of the averaged ones
        trained = content["ema_state_dict"]
        state.update({k.removeprefix("module."): v for k, v in trained.items() if k.startswith("module.")})
    if half:
        state = {key: _halved(key, value) for key, value in state.items()}
    meta = dict(content.get("meta", {}))
    if "cfg" in meta:
        meta["cfg"] = FOLDERS.sub("", meta["cfg"])
    return {"meta": meta, "state_dict": state}


def _halved(key: str, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    if not value.half().isfinite().all():
        raise ValueError(f"--half: {key} holds numbers that half precision does not have; leave the option out")
    return value.half()


def _is_published(path: Path) -> bool:
    return path.is_file() and path.stem.endswith(f"-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}")
