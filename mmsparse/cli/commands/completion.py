"""Print what completes commands and options in a shell.

mmsparse completion bash > ~/.local/share/bash-completion/completions/mmsparse
"""

import argparse

from mmsparse.cli.main import command_files, command_parser

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS)


def run(args: argparse.Namespace) -> None:
    try:
        import shtab
    except ImportError as error:
        raise ValueError("completion needs the package shtab: pip install shtab") from error
    whole = argparse.ArgumentParser(prog="mmsparse")
    commands = whole.add_subparsers()
    for name in command_files():
        one = command_parser(name)
        commands.add_parser(name, parents=[one], add_help=False, help=one.description.splitlines()[0])
    print(shtab.complete(whole, args.shell))
