"""Checkpoint files of converters: converted, checked, written whole or not at all, reported."""

import argparse
import io
import os
import pprint
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmsparse import __version__
from mmsparse.checkpoints import check_checkpoint, read_checkpoint, weights_of
from mmsparse.mistakes import mistakes_in
from mmsparse.models.convert import Converted, check_fit
from mmsparse.models.convert.dense import State
from mmsparse.trust import add_trust, trust_checkpoints


def add_files(parser: argparse.ArgumentParser) -> None:
    """What a converter takes."""
    parser.add_argument("src", help="checkpoint to convert: a file or a URL")
    parser.add_argument("dst", type=Path, help="where the result goes; its folder is made if needed")
    add_trust(parser)


def convert_file(args: argparse.Namespace, convert: Callable[[State], Converted]) -> None:
    trust_checkpoints(args.trust_checkpoint)
    check_checkpoint(args.src, "src")
    check_destination(args.src, args.dst)
    content = read_checkpoint(args.src, "src")
    with mistakes_in(f"Argument `src`: {args.src}"):
        converted = convert(_weights(content))
        fit = check_fit(converted)
    meta = dict(mmsparse_version=__version__, converted_from=converted.layout, backbone=converted.backbone)
    result = dict(meta=meta, state_dict={k: v.contiguous() for k, v in converted.weights.items()})
    write_whole(to_bytes(result), args.dst)
    print(f"{converted.layout} -> {args.dst}")
    for kind in ("loaded", "missing", "unexpected"):
        names = getattr(fit, kind)
        print(f"  {kind}: {len(names)}" + ("" if kind == "loaded" else "".join(f"\n    {name}" for name in names)))
    if fit.carried:
        print(f"  carried over as they are: {len(fit.carried)}")
    print("  backbone=" + pprint.pformat(converted.backbone, sort_dicts=False).replace("\n", "\n  "))
    for note in converted.notes:
        print(f"  note: {note}")


def _weights(content: dict[str, Any]) -> State:
    state = weights_of(content, ("state_dict", "model"))
    if not state:
        raise ValueError(f"the file holds no weights, only {sorted(map(str, content))}")
    return state


def check_destination(src: str, dst: Path) -> None:
    if dst.is_dir():
        raise ValueError(f"Expected argument `dst` to be a file, but {dst} is a folder")
    if dst.exists() and Path(src).exists() and dst.samefile(src):
        raise ValueError(f"Argument `dst`: {dst} is the same file as `src`. Choose another name")


def to_bytes(content: dict[str, Any]) -> bytes:
    """A checkpoint file; the same content gives the same bytes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def write_whole(data: bytes, path: Path) -> None:
    """Write a file so that nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
