"""Networks in other runtimes: written as files, checked against PyTorch, and put in a model's place."""

from .artifact import Artifact
from .export import Wish, export
from .formats import FORMATS, PRECISIONS
from .serving import serve

__all__ = ["FORMATS", "PRECISIONS", "Artifact", "Wish", "export", "serve"]
