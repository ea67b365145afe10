"""What every process of the tests does without: it takes longer than what they look at, and changes nothing of it."""

import copy
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from mmengine.config import Config
from mmengine.dataset import base_dataset
from yapf.yapflib import yapf_api

yapf_api.FormatCode = lambda code, **_: (code, True)  # every Runner and every dump lays out its config
base_dataset.gc = SimpleNamespace(collect=int)  # every dataset looks for garbage among all that was imported

HERE = str(Path(__file__).parents[1])
_read = Config._file2dict
_read_once = cache(_read)


def _file2dict(filename, *args, **kwargs):
    """A config of ours, or one that they stand on, is parsed once a process: it is read a thousand times."""
    if not str(Path(filename).absolute()).startswith(HERE):
        return _read(filename, *args, **kwargs)
    return copy.deepcopy(_read_once(filename, *args, **kwargs))


Config._file2dict = staticmethod(_file2dict)
