"""Numbers of a command, for programs: nothing of OpenMMLab is needed to ask for them."""

import argparse
import json
import sys
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from typing import Any


def add_json(parser: argparse.ArgumentParser) -> None:
    """For a command whose ``run`` returns them, as a dict; its ``status`` is the exit status."""
    parser.add_argument("--json", action="store_true", help="numbers alone, as JSON, on stdout; all else on stderr")


def asked(args: argparse.Namespace) -> bool:
    return getattr(args, "json", False)


def aside(args: argparse.Namespace) -> AbstractContextManager[Any]:
    """Inside a with-block what is printed is out of the numbers' way."""
    return redirect_stdout(sys.stderr) if asked(args) else nullcontext()


def told(args: argparse.Namespace, done: int | dict[str, Any] | None) -> int:
    """Print what ``run`` returned, if that was asked for; the exit status."""
    if not isinstance(done, dict):
        return done or 0
    status = done.pop("status", 0)
    if asked(args):
        print(json.dumps(done, default=float))  # NumPy's, which mmseg's metrics are
    return status
