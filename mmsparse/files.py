"""Files that are there whole or not at all, however the process ends, and what a full disk is told by."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # of a disk, of a quota, of what a file may be
ROOM = 1 << 20  # bytes that any result may need


def write_whole(data: bytes | str, path: Path) -> None:
    """Write a file so that nobody ever sees half of it; its folder is made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        error.filename = str(path)  # which a full disk does not tell
        raise
    finally:
        part.unlink(missing_ok=True)


def check_room(folder: Path) -> None:
    """Raise OSError if not even ``ROOM`` bytes can be written to a folder; what was tried has no name in it."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(ROOM))


@contextmanager
def blaming_room(folder: Path, name: Path) -> Iterator[None]:
    """An error inside a with-block is the full disk's if nothing more can be written to a folder.

    Libraries have words of their own for what they cannot write. The error names ``name``.
    """
    try:
        yield
    except Exception as error:
        try:
            check_room(folder)
        except OSError as full:
            full.filename = str(name)
            raise full from error
        raise
