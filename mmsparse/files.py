"""Files that are there whole or not at all, however the process ends."""

import os
from pathlib import Path


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
    finally:
        part.unlink(missing_ok=True)
