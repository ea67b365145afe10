"""How every tool ends when its user made a mistake: one sentence, exit status 2."""

import linecache
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def say_mistakes() -> Iterator[None]:
    """Around a tool's main: what our own checks refuse, and files that cannot be used, end in a sentence on stderr.

    Everything else is a bug, of ours or of a library, and keeps its traceback.
    """
    try:
        yield
    except (ValueError, TypeError, RuntimeError, OSError) as error:
        if _refused(error):
            sentence = str(error)
        elif isinstance(error, OSError) and error.filename:
            sentence = f"cannot read or write {str(error.filename)!r}: {error.strerror}"
        else:
            raise
    else:
        return
    print(f"{Path(sys.argv[0]).name}: error: {' '.join(sentence.split())}", file=sys.stderr)
    raise SystemExit(2)


def _refused(error: Exception) -> bool:
    """Raised by a `raise` of this package or of a project, not by Python or torch inside one of its functions."""
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    module = frame.f_globals["__name__"].partition(".")[0]
    source = linecache.getline(frame.f_code.co_filename, line)
    return module in ("mmsparse", "projects", "__main__") and source.strip().startswith("raise ")
