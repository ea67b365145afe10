import json
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from scenes import ROOT

from mmsparse import env, mmcv_ops


def pretend(monkeypatch, *dists):
    monkeypatch.setattr(env, "installed", lambda name: "1.0" if name in dists else None)


ONEDL = [onedl for _, onedl in env.STACK.values()]
UPSTREAM = [upstream for upstream, _ in env.STACK.values()]


@pytest.mark.parametrize("dists", [ONEDL, UPSTREAM], ids=["onedl", "upstream"])
def test_one_whole_stack_is_fine(monkeypatch, dists):
    pretend(monkeypatch, *dists)
    assert env.stack_problems() == []
    env.require("mmengine", "mmcv", "mmpretrain")


def test_missing_parts_are_named_with_the_command(monkeypatch):
    pretend(monkeypatch, *ONEDL[:2])
    with pytest.raises(
        RuntimeError, match=r"Not installed: mmpretrain\. Install one stack: pip install 'mmsparse\[onedl\]'"
    ):
        env.require("mmengine", "mmcv", "mmpretrain")


def test_both_and_mixed_stacks(monkeypatch):
    pretend(monkeypatch, *ONEDL, "mmdet")
    assert "mmdet and onedl-mmdetection are both installed" in env.stack_problems()[0]
    pretend(monkeypatch, *ONEDL[:2], *UPSTREAM[2:])
    assert "mixed" in env.stack_problems()[0]


@pytest.mark.parametrize("version", ["2.6.0", "2.6.0+cpu", "2.11.0a0+git1", "3.0"])
def test_a_torch_that_is_new_enough(monkeypatch, version):
    monkeypatch.setattr(env, "installed", lambda name: version)
    env.require_torch()


def test_a_torch_that_is_too_old_or_missing(monkeypatch):
    """The oldest is that of the package's metadata."""
    least = ".".join(map(str, env.TORCH))
    assert f'"torch>={least},' in (ROOT / "pyproject.toml").read_text()
    for version in ("2.5.1+cu121", "1.13"):
        monkeypatch.setattr(env, "installed", lambda name, version=version: version)
        with pytest.raises(
            RuntimeError, match=rf"^torch {re.escape(version)} is too old: mmsparse needs torch>={least}"
        ):
            env.require_torch()
    pretend(monkeypatch)
    env.require_torch()  # this process has one, with or without metadata
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(RuntimeError, match="^torch is not installed"):
        env.require_torch()


@pytest.mark.parametrize(
    "name, told", [("mmdet", "Not installed: mmdet"), ("tqdm", "Not installed: tqdm. pip install tqdm")]
)
def test_what_an_import_lacked_is_named(monkeypatch, name, told):
    pretend(monkeypatch, "torch")
    monkeypatch.setattr(env, "torch_problems", lambda: [])
    with pytest.raises(RuntimeError, match=told):
        env.require_for(ModuleNotFoundError(name=f"{name}.models"))
    env.require_for(ModuleNotFoundError(name="mmsparse.nowhere"))  # is a bug
    env.require_for(AttributeError(name="nowhere"))


def test_command_line_says_what_is_there():
    done = subprocess.run([sys.executable, "-m", "mmsparse.env"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "0 known conflict(s)" in done.stdout
    _, _, ops = done.stdout.partition("mmcv ops     ")
    if find_spec("mmcv._ext").origin == mmcv_ops.FILE:
        assert ops.startswith("not compiled; 12 served by mmsparse from torchvision and PyTorch: carafe, deform_conv,")
        assert " not there (OPS=compiled make setup): active_rotated_filter," in " ".join(ops.split())
    else:
        assert ops.startswith("compiled\n")


def test_what_is_there_for_programs():
    """In a process that lacks OpenMMLab's mmengine."""
    hidden = "import sys; sys.modules['mmengine'] = None; from mmsparse.cli.main import main; sys.exit(main({!r}))"
    done = subprocess.run([sys.executable, "-c", hidden.format(["env", "--json"])], capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["python"] == sys.version.split()[0] and found["mmengine"].keys() <= {*env.STACK["mmengine"]}
    assert done.returncode == 1 and "mmcv's operators do not load" in found["problems"][0]


def test_operators_that_do_not_load_are_a_problem(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmcv.ops", None)
    assert "mmcv's operators do not load (import of mmcv.ops halted" in env.operator_problems()[0]
