"""What a checkpoint file may hold: weights and what mmengine writes beside them, unless somebody trusts the file.

A checkpoint is a pickle, and a pickle can be a program that runs when it is loaded. PyTorch can load weights only; this
names the few types besides that an honest file of ours has, and puts every loader of mmengine under one rule.
"""

import argparse
import functools
import os
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader

from mmsparse.packaged import weights_path

WEIGHTS, ANYTHING = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # PyTorch's own switches
ON = ("1", "y", "yes", "true")
PICKLES = (b"PK", b"\x80")  # how a file begins that torch.save has written
SWITCHING = threading.RLock()
METHODS = {  # what checkpoints hold of these types besides numbers
    HistoryBuffer: ("min", "max", "mean", "current"),
    OneCycleParamScheduler: ("_annealing_cos", "_annealing_linear"),
}


class UntrustedError(ValueError):
    """A file that holds more than it may."""


def add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="load checkpoints that hold more than weights, too; such a file can run any program",
    )


def trust_checkpoints(trust: bool = True) -> None:
    """Say of all checkpoints that this process loads from now on, whoever loads them, whether they may run code.

    The tools say no, unless they are given ``--trust-checkpoint``. A config is a program in any case.
    """
    os.environ.pop(WEIGHTS if trust else ANYTHING, None)
    os.environ[ANYTHING if trust else WEIGHTS] = "1"


def trusted() -> bool:
    """Whether somebody said so: ``trust_checkpoints``, or PyTorch's switch in the environment."""
    anything, weights = (os.environ.get(switch, "0").lower() in ON for switch in (ANYTHING, WEIGHTS))
    return anything and not weights


@contextmanager
def trusting(trust: bool | None) -> Iterator[None]:
    """The same for the time of a with-block; None: as was said before, and else no. Threads take turns."""
    with SWITCHING:
        before = {switch: os.environ[switch] for switch in (WEIGHTS, ANYTHING) if switch in os.environ}
        trust_checkpoints(trusted() if trust is None else trust)
        try:
            yield
        finally:
            for switch in (WEIGHTS, ANYTHING):
                os.environ.pop(switch, None)
            os.environ.update(before)


def guard_loaders() -> None:
    """Put mmengine's loaders under the rule: files, URLs and the schemes that are names of URLs. Safe to call twice."""
    CheckpointLoader.register_scheme(prefixes="", loader=_load_file, force=True)
    for prefix, loader in list(CheckpointLoader._schemes.items()):
        if not hasattr(loader, "guarded"):
            CheckpointLoader.register_scheme(prefixes=prefix, loader=_guarded(loader), force=True)


def _guarded(loader: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(loader)
    def load(filename: str, *args: Any, **kwargs: Any) -> Any:
        torch.serialization.add_safe_globals(KNOWN)  # each time: others take theirs back, and ours with them
        with trusting(None):
            try:
                return loader(filename, *args, **kwargs)
            except (pickle.UnpicklingError, RuntimeError) as error:
                found = None if trusted() else _refused(filename, error)
                if found is None:
                    raise
                raise UntrustedError(
                    f"{filename} holds {found}, and loading that could run any program. If you trust where the file "
                    "comes from, add --trust-checkpoint, or in Python call mmsparse.trust_checkpoints()"
                ) from error

    load.guarded = True
    return load


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """mmengine's own passes PyTorch's default, or loads anything where weights alone do not do."""
    path = weights_path(filename)
    if not path.is_file():
        raise FileNotFoundError(f"{filename} can not be found.")
    if path.suffix == ".safetensors":  # holds no code
        from safetensors.torch import load_file

        return load_file(path, device=str(map_location or "cpu"))
    return torch.load(path, map_location=map_location, weights_only=not trusted())


_load_file = _guarded(load_from_local)


def _refused(filename: str, error: Exception) -> str | None:
    """What PyTorch would not load; None if the file is broken or no checkpoint."""
    if name := re.search(r"GLOBAL (\S+)", str(error)):
        return f"more than weights ({name[1]})"
    path = weights_path(filename)
    if not path.is_file() or "eights" not in str(error):
        return None
    with path.open("rb") as file:
        return "a kind of pickle that cannot be checked" if file.read(2).startswith(PICKLES) else None


class _Dtype:
    """A type of numbers or texts, from its code. NumPy's own takes states of types that point anywhere in memory."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biufcSU]\d+", code):
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype({code!r})")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that is filled with the bytes of numbers, and is saved as a plain one."""

    def __setstate__(self, state: tuple) -> None:
        version, shape, dtype, fortran, data = state
        super().__setstate__((version, shape, dtype.dtype, fortran, data))

    def __reduce__(self) -> tuple:
        return self.view(np.ndarray).__reduce__()


def _reconstruct(*_: Any) -> _Array:
    return _Array(0)


def _scalar(dtype: _Dtype, data: bytes) -> np.generic:
    return np.frombuffer(data, dtype.dtype)[0]


def _method(owner: Any, name: str) -> Callable[..., Any]:
    """What pickled methods need of ``getattr``."""
    if owner not in METHODS or name not in METHODS[owner]:
        raise pickle.UnpicklingError(f"GLOBAL getattr of {name}")
    return getattr(owner, name)


# In the files of NumPy 1 and 2. argparse.Namespace: the settings beside the weights in the releases of many papers.
KNOWN = [
    HistoryBuffer,
    OneCycleParamScheduler,
    argparse.Namespace,
    bytes,  # none: those of an empty array
    (_method, "builtins.getattr"),
    (_Dtype, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
