"""What stands behind mmcv's Python functions: ours, wherever compiled operators are installed as well, or those."""

import sys
from types import ModuleType

import mmcv.ops  # noqa: F401  loads mmcv._ext
import pytest

from mmsparse import mmcv_ops
from mmsparse.mmcv_ops import ext

LOADED = sys.modules["mmcv._ext"]
COMPILED = LOADED if LOADED.__file__ != mmcv_ops.FILE else None


def put_behind(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, each in list(sys.modules.items()):
        if name.startswith("mmcv.ops.") and hasattr(each, "ext_module"):
            monkeypatch.setattr(each, "ext_module", module)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    put_behind(ext, monkeypatch)
    return ext


@pytest.fixture
def compiled() -> ModuleType:
    if COMPILED is None:
        pytest.skip("mmcv has no compiled operators here")
    return COMPILED


@pytest.fixture(params=["served", "compiled"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """One after the other: what equals the same plain reference is the same."""
    module = request.getfixturevalue(request.param)
    put_behind(module, monkeypatch)
    return module
