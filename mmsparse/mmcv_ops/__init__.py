"""mmcv's operators without a compiler.

mmcv's Python functions call a compiled module, ``mmcv._ext``. An mmcv that was built without it cannot even import
``mmcv.ops``, nor mmdet its models. Here the module comes from torchvision and plain PyTorch instead, see ``ext.py``;
mmcv's own functions stay as they are. The finder stands last among Python's, so that a compiled module is found first.
It has to be there before mmdet is imported, and a stock tool imports that before mmsparse: ``mmsparse_mmcv_ops.pth``,
which setup.py installs beside the packages, brings it when Python starts.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location

MODULE = "mmcv._ext"
FILE = __file__.replace("__init__.py", "ext.py")


class Finder:
    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return spec_from_file_location(name, FILE) if name == MODULE else None


def serve() -> None:
    """Let Python find the operators here where mmcv has none of its own."""
    if Finder not in sys.meta_path:
        sys.meta_path.append(Finder)
