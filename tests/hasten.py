"""What every process of the tests does without: it takes longer than what they look at, and changes nothing of it."""

from types import SimpleNamespace

from mmengine.dataset import base_dataset
from yapf.yapflib import yapf_api

yapf_api.FormatCode = lambda code, **_: (code, True)  # every Runner and every dump lays out its config
base_dataset.gc = SimpleNamespace(collect=int)  # every dataset looks for garbage among all that was imported
