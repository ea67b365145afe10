"""Checkpoint files of converters: read, checked, written whole or not at all, reported."""

import argparse
import io
import os
import pprint
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor

from mmsparse import __version__, compat

from .dense import Converted, State
from .fit import check_fit


def convert_command(description: str | None, convert: Callable[[State], Converted]) -> None:
    """A converter's command line: SRC DST; what does not fit ends with one sentence and exit code 2."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("src", help="checkpoint to convert: a file or a URL")
    parser.add_argument("dst", type=Path, help="where the result goes; its folder is made if needed")
    args = parser.parse_args()
    try:
        check_destination(args.src, args.dst)
        converted = convert(weights_of(read_checkpoint(args.src)))
        fit = check_fit(converted)
        meta = dict(mmsparse_version=__version__, converted_from=converted.layout, backbone=converted.backbone)
        content = dict(meta=meta, state_dict={k: v.contiguous() for k, v in converted.weights.items()})
        write_whole(to_bytes(content), args.dst)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: error: {args.src}: {error}\n")
    print(f"{converted.layout} -> {args.dst}")
    for kind in ("loaded", "missing", "unexpected"):
        names = getattr(fit, kind)
        print(f"  {kind}: {len(names)}" + ("" if kind == "loaded" else "".join(f"\n    {name}" for name in names)))
    if fit.carried:
        print(f"  carried over as they are: {len(fit.carried)}")
    print("  backbone=" + pprint.pformat(converted.backbone, sort_dicts=False).replace("\n", "\n  "))
    for note in converted.notes:
        print(f"  note: {note}")


def read_checkpoint(src: str) -> Any:
    """What the file holds, on the CPU."""
    compat.prepare()
    if "://" not in src and not Path(src).is_file():
        raise ValueError("this is a folder; name a file in it" if Path(src).is_dir() else "no such file")
    try:
        return CheckpointLoader.load_checkpoint(src, map_location="cpu")
    except Exception as error:  # unpickling fails in many ways
        raise ValueError(f"not a checkpoint that PyTorch can read ({type(error).__name__})") from error


def weights_of(content: Any) -> State:
    """The weights in a loaded checkpoint, without wrappers' prefixes."""
    if not isinstance(content, dict):
        raise ValueError(f"expected a dict of weights, but the file holds a {type(content).__name__}")
    state = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    state = {str(key).removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"the file holds no weights, only {sorted(map(str, content))}")
    return state


def check_destination(src: str, dst: Path) -> None:
    if dst.is_dir():
        raise ValueError(f"expected `dst` to be a file, but {dst} is a folder")
    if dst.exists() and Path(src).exists() and dst.samefile(src):
        raise ValueError("`dst` is the same file as `src`; choose another name")


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
