"""Where the operators come from, and what is said of those that are not there."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmcv.ops import RoIAlign, RoIPool, get_compiler_version, psa_mask
from mmcv.utils.ext_loader import check_ops_exist

from mmsparse import env, mmcv_ops

ROIS = torch.tensor([[0.0, 0, 0, 3, 3]])


def test_what_is_not_served_says_so(served):
    sentence = r"mmcv's operator {} is not there: mmcv is installed without .* `OPS=compiled make setup` in a clone"
    with pytest.raises(RuntimeError, match=sentence.format("roi_pool_forward")):
        RoIPool(2)(torch.rand(1, 1, 4, 4), ROIS)
    with pytest.raises(RuntimeError, match=sentence.format("psamask_forward")):
        psa_mask.PSAMask("collect", (3, 3))(torch.rand(1, 9, 4, 4))
    with pytest.raises(RuntimeError, match=sentence.format("roi_align with pool_mode='max'")):
        RoIAlign(2, pool_mode="max")(torch.rand(1, 1, 4, 4), ROIS)


def test_the_module_is_one_to_the_rest_of_python(served):
    assert not hasattr(served, "__path__") and not hasattr(served, "_private")
    with pytest.raises(RuntimeError, match="operator upfirdn2d is not there"):
        pickle.loads(pickle.dumps(served.upfirdn2d))()
    assert pickle.loads(pickle.dumps(served.nms)) is served.nms
    assert "upfirdn2d" in served.refused and "nms" not in served.refused
    assert all(callable(vars(served)[name]) for name in served.__all__)
    assert check_ops_exist() and "mmsparse serves" in get_compiler_version()


def imported(code: str, *path: Path) -> str:
    code = f"import sys; sys.path[:0] = {[str(p) for p in path]}; {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_compiled_operators_come_first(tmp_path):
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").touch()
    root = Path(mmcv_ops.__file__).parents[2]
    find = "import mmsparse, importlib.util; print(importlib.util.find_spec('mmcv._ext').origin)"
    assert imported(find, tmp_path, root) == mmcv_ops.FILE
    (package / "_ext.py").touch()
    assert imported(find, tmp_path, root) == str(package / "_ext.py")


def test_without_mmcv_there_is_nothing_to_find(tmp_path):
    code = "import mmsparse, importlib.util; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; "
    code += "import importlib; print(importlib.util.find_spec('mmcv'))"
    assert imported(code, Path(mmcv_ops.__file__).parents[2]) == "None"


def test_python_finds_them_before_anyone_imports_mmsparse():
    """As a stock tool of mmdet would, in an environment where mmsparse is installed."""
    assert imported("print(sorted(m for m in sys.modules if m.startswith(('mmsparse', 'torch'))))") == "[]"
    assert imported("from mmcv.ops import batched_nms; print(batched_nms.__module__)") == "mmcv.ops.nms"


def test_the_environment_is_told(served, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mmcv._ext", served)
    monkeypatch.setattr(served, "__file__", mmcv_ops.FILE)
    served.refused.update(["psamask_forward", "psamask_backward"])
    found = env.operators()
    assert {"modulated_deform_conv", "ms_deform_attn", "nms", "nms_match"} <= set(found["served"])
    assert "psamask" in found["absent"] and not any(name.startswith("psamask_") for name in found["absent"])
    env.say({"mmcv ops": found, "problems": []})
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith("mmcv ops not compiled; ") and " not there (OPS=compiled make setup): " in told
    monkeypatch.setattr(served, "__file__", "_ext.so")
    assert env.operators() is None
    env.say({"mmcv ops": None, "problems": []})
    assert capsys.readouterr().out.split()[2] == "compiled"
