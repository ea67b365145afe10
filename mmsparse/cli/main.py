"""The console command ``mmsparse``, and the same work as a script.

A sub-command is a module in ``commands/``. It is imported when it is called, for the libraries take seconds.
"""

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from mmsparse import __version__, env
from mmsparse.cli.mistakes import Parser, say_mistakes
from mmsparse.cli.numbers import aside, told

FOLDER = Path(__file__).parent / "commands"


def main(argv: Sequence[str] | None = None) -> int:
    """``mmsparse COMMAND ...``; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    files = command_files()
    with say_mistakes("mmsparse"):
        parser = Parser(
            prog="mmsparse",
            usage="mmsparse COMMAND ...",
            description=f"commands (mmsparse COMMAND --help says more):\n\n{summaries(files)}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("command", metavar="COMMAND", help=argparse.SUPPRESS)
        parser.add_argument("--version", action="version", version=__version__)
        name = parser.parse_args(argv[:1]).command
        if name not in files:
            (nearest,) = difflib.get_close_matches(name, files, n=1, cutoff=0.0)
            parser.error(f"there is no command {name!r}; the nearest is `mmsparse {nearest}`")
    return run_command(name, f"mmsparse {name}", argv[1:])


def command_files() -> dict[str, Path]:
    return {path.stem.replace("_", "-"): path for path in sorted(FOLDER.glob("[!_]*.py"))}


def summaries(files: dict[str, Path]) -> str:
    """The first line of each description, read and not imported."""
    width = max(map(len, files))
    lines = {name: path.read_text(encoding="utf-8").split("\n")[0].strip('"') for name, path in files.items()}
    return "\n".join(f"  {name:<{width}}  {line}" for name, line in lines.items())


def run_command(name: str, prog: str | None = None, argv: Sequence[str] | None = None) -> int:
    """A sub-command; a script of ``tools/`` leaves its own name and arguments to the command line."""
    with say_mistakes(prog):
        try:
            command = _module(name)
        except Exception as error:  # an old torch lacks names and has others
            env.require_for(error)
            raise
        if "torch" in sys.modules:
            env.require_torch()
    return run_script(command.__doc__, command.add_arguments, command.run, prog, argv)


def run_script(
    description: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int | dict[str, Any] | None],
    prog: str | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """From a command line to its exit status; a mistake of the user is told in one sentence.

    A command whose numbers can be asked for (``numbers.add_json``) returns them in place of a status.
    """
    with say_mistakes(prog):
        args = _parser(description, add_arguments, prog).parse_args(argv)
        with aside(args):
            done = run(args)
        return told(args, done)


def command_parser(name: str) -> Parser:
    """What ``mmsparse NAME`` takes."""
    command = _module(name)
    return _parser(command.__doc__, command.add_arguments, f"mmsparse {name}")


def _module(name: str) -> ModuleType:
    return import_module(f"mmsparse.cli.commands.{name.replace('-', '_')}")


def _parser(
    description: str | None, add_arguments: Callable[[argparse.ArgumentParser], None], prog: str | None
) -> Parser:
    parser = Parser(prog=prog, description=description)
    add_arguments(parser)
    return parser
