"""Checkpoints of a training that may end at any moment."""

import logging
import re
import zipfile
from pathlib import Path
from typing import ClassVar

from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmsparse.files import write_whole
from mmsparse.registry import HOOKS

NUMBERED = re.compile(r"(?:iter|epoch)_(\d+)\.pth")


class WholeFiles(LocalBackend):
    """A backend of mmengine whose files are whole, and in which a file stays until the one in its place is there."""

    _leaving: ClassVar[list[Path]] = []  # mmengine makes a backend for the hook and one for each file

    def put(self, obj: bytes, filepath: str | Path) -> None:
        write_whole(obj, Path(filepath))
        while self._leaving:
            self._leaving.pop().unlink(missing_ok=True)

    def remove(self, filepath: str | Path) -> None:
        self._leaving.append(Path(filepath))


register_backend("mmsparse.WholeFiles", WholeFiles)


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """mmengine's hook, with checkpoints that are written aside, flushed and renamed.

    Killed while it writes, mmengine's leaves half a file, and with ``max_keep_ckpts=1`` nothing else: it removes the
    checkpoint before last first. Arguments are those of ``CheckpointHook``; where ``backend_args`` or an ``out_dir``
    with a protocol say that files are elsewhere, it is that hook.
    """

    def before_train(self, runner: Runner) -> None:
        told = (self.backend_args, self.file_client_args)
        if told == (None, None) and "://" not in str(self.out_dir or runner.work_dir):
            self.backend_args = dict(backend="mmsparse.WholeFiles")
        super().before_train(runner)


def latest_checkpoint(folder: str | Path) -> str | None:
    """The checkpoint from which a training in a folder goes on: the one that it names as its last, or, where that is
    not there or not whole, the newest that is.
    """
    folder = Path(folder)
    note = folder / "last_checkpoint"
    named = [Path(note.read_text().strip())] if note.is_file() else []
    numbered = [(int(found[1]), path) for path in folder.glob("*.pth") if (found := NUMBERED.fullmatch(path.name))]
    paths = [*named, *(path for _, path in sorted(numbered, reverse=True))]
    found = next((path for path in paths if path.is_file() and zipfile.is_zipfile(path)), None)
    if found and named and found.name != named[0].name:
        print_log(f"{note} names {named[0]}, which is not whole: going on from {found}", "current", logging.WARNING)
    return None if found is None else str(found)
