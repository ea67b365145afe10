"""What tells a user's mistake from a bug: a `raise` of this package, or of a project, refuses it."""

import dis
from collections.abc import Iterator
from contextlib import contextmanager

OURS = ("mmsparse", "projects", "__main__")
RAISE = dis.opmap["RAISE_VARARGS"]  # what `raise` and `assert` become


def raised_by(error: BaseException) -> str | None:
    """The package whose own `raise` or `assert` made an error; None if Python, or compiled code, did."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    if trace.tb_frame.f_code.co_code[trace.tb_lasti] != RAISE:
        return None
    return trace.tb_frame.f_globals["__name__"].partition(".")[0]


def is_mistake(error: BaseException) -> bool:
    """Whether a check of ours raised it. Everything else is a bug, of ours or of a library."""
    return isinstance(error, ValueError | TypeError | RuntimeError | OSError) and raised_by(error) in OURS


@contextmanager
def mistakes_in(where: str) -> Iterator[None]:
    """Mistakes inside of a with-block are told with the argument they are in; bugs pass as they are."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not is_mistake(error):
            raise
        raise type(error)(f"{where}: {error}") from error
