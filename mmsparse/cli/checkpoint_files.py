"""Checkpoint files of converters: converted, checked, written whole or not at all, reported."""

import argparse
import io
import pprint
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mmsparse import __version__
from mmsparse.checkpoints import SAFETENSORS, check_checkpoint, read_checkpoint, require_safetensors, weights_of
from mmsparse.files import write_whole
from mmsparse.mistakes import mistakes_in
from mmsparse.models.convert import Converted, check_fit, convert_outward
from mmsparse.models.convert.layouts import State
from mmsparse.trust import add_trust, trust_checkpoints


def add_files(parser: argparse.ArgumentParser) -> None:
    """What a converter takes."""
    parser.add_argument("src", help="checkpoint to convert: a file or a URL")
    parser.add_argument("dst", type=Path, help="where the result goes; its folder is made if needed")
    add_trust(parser)


def convert_file(args: argparse.Namespace, convert: Callable[[State], Converted]) -> None:
    """Into the OpenMMLab layout."""
    if args.dst.suffix == SAFETENSORS:
        raise ValueError(f"Expected argument `dst` to be a checkpoint of mmengine, such as .pth, but got {args.dst}")
    content = _read(args)
    with mistakes_in(f"Argument `src`: {args.src}"):
        converted = convert(_weights(content))
        fit = check_fit(converted)
    configs = dict(backbone=converted.backbone, **converted.heads)
    meta = dict(mmsparse_version=__version__, converted_from=converted.layout, **configs)
    result = dict(meta=meta, state_dict={k: v.contiguous() for k, v in converted.weights.items()})
    write_whole(to_bytes(result), args.dst)
    print(f"{converted.layout} -> {args.dst}")
    print(f"  loaded: {len(fit.loaded)}")
    _print_names("missing", fit.missing)
    _print_names("unexpected", fit.unexpected)
    if converted.left_out:
        _print_names("left out, for a dense network does not use them", converted.left_out)
    if fit.carried:
        print(f"  carried over as they are: {len(fit.carried)}")
    for name, config in configs.items():
        print(f"  {name}=" + pprint.pformat(config, sort_dicts=False).replace("\n", "\n  "))
    for note in converted.notes:
        print(f"  note: {note}")


def release_file(args: argparse.Namespace, release: str) -> None:
    """Out of the OpenMMLab layout."""
    content = _read(args)
    if args.dst.suffix == SAFETENSORS:
        require_safetensors("dst", args.dst)
    with mistakes_in(f"Argument `src`: {args.src}"):
        released = convert_outward(_weights(content), release)
    weights = {key: value.contiguous() for key, value in released.weights.items()}
    write_whole(_to_safetensors(weights) if args.dst.suffix == SAFETENSORS else to_bytes(weights), args.dst)
    print(f"{released.layout} -> {args.dst}")
    print(f"  written: {len(weights)}")
    _print_names("missing", released.missing)
    print(f"  left out: {len(released.left_out)}")
    for part, count in Counter(re.match(r"(.*\.)?router|[^.]*", key)[0] for key in released.left_out).items():
        print(f"    {part}: {count}")
    for note in released.notes:
        print(f"  note: {note}")


def _print_names(what: str, names: Sequence[str]) -> None:
    print(f"  {what}: {len(names)}" + "".join(f"\n    {name}" for name in names))


def _read(args: argparse.Namespace) -> dict[str, Any]:
    trust_checkpoints(args.trust_checkpoint)
    check_checkpoint(args.src, "src")
    check_destination(args.src, args.dst)
    return read_checkpoint(args.src, "src")


def _to_safetensors(weights: State) -> bytes:
    from safetensors.torch import save

    return save(weights, metadata={"format": "pt"})  # without that transformers refuses the file


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
