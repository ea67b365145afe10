"""How every command ends when its user made a mistake: one sentence, exit status 2."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from mmsparse.files import FULL
from mmsparse.mistakes import is_mistake

_OF_A_WORKER = "in DataLoader worker process"
_NO_TEMPORARY = "No usable temporary directory"  # how tempfile begins
_FREE = "Free some disk space, or name another folder"
_COMPLETE = "Complete the data, or take its entry out of the annotations"


class Parser(argparse.ArgumentParser):
    """Refuses as our own checks do, and does not print its usage first."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}. {self.prog} --help says more")


@contextmanager
def say_mistakes(prog: str | None = None) -> Iterator[None]:
    """Around a command's work: what our own checks refuse, and files that cannot be used, end in a sentence on stderr.

    Everything else is a bug, of ours or of a library, and keeps its traceback.
    """
    try:
        yield
    except BrokenPipeError:  # who reads, such as `head`, has seen enough; what is left must not fail at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        if is_mistake(error):
            sentence = str(error)
        elif isinstance(error, OSError) and error.filename:
            sentence = f"cannot read or write {str(error.filename)!r}: {error.strerror}"
            sentence += f". {_FREE}" if error.errno in FULL else ""
        elif isinstance(error, FileNotFoundError) and str(error.strerror).startswith(_NO_TEMPORARY):
            sentence = f"no temporary file can be written: {error.strerror}. {_FREE} with TMPDIR"
        elif isinstance(error, OSError) and error.errno in FULL:
            sentence = f"a file cannot be written: {error.strerror}. {_FREE}"
        elif isinstance(error, FileNotFoundError) and _OF_A_WORKER in str(error):  # which keeps only its text
            sentence = f"a file of the data set is missing: {str(error).split(']')[-1].strip()}. {_COMPLETE}"
        else:
            raise
    else:
        return
    print(f"{prog or Path(sys.argv[0]).name}: error: {' '.join(sentence.split())}", file=sys.stderr)
    raise SystemExit(2)
