"""What is there of the package where a library is not, and what somebody is told who asks for the rest."""

import importlib
import subprocess
import sys

import pytest

from mmsparse.models import heads, necks

# The libraries named on the command line are hidden, their files and their metadata.
WITHOUT = """
import sys
hidden = sys.argv[1:]
for name in hidden:
    sys.modules[name] = None
from mmsparse import env
there = env.installed
env.installed = lambda dist: None if any(dist in env.STACK[name] for name in hidden) else there(dist)
from mmengine.registry import MODELS
decode = dict(in_channels=[8, 8], in_index=[0, 1], channels=8, num_classes=3)
arguments = dict(
    DynamicConvNeXt=dict(arch="atto", sparsity={}), DynamicSwin=dict(sparsity={}),
    DynamicRetinaHead={}, DynamicFPN=dict(in_channels=[8]), DynamicUPerHead=decode,
)
import mmsparse.models
for name, given in arguments.items():
    try:
        said = type(MODELS.build(dict(type="mmsparse." + name, **given))).__name__
    except RuntimeError as error:
        said = error
    print(name, said, sep=": ")
"""


COMMANDS = """
import sys
from mmsparse import env
from mmsparse.cli.main import main
sys.modules["mmengine"] = None
env.installed = lambda dist: None
for argv in (["train", "config.py"], ["scenes", "--help"], ["env"]):
    try:
        print(argv[0], main(argv))
    except SystemExit as ended:
        print(argv[0], ended.code)
"""


def test_commands_say_what_is_missing_and_the_others_work():
    done = subprocess.run([sys.executable, "-c", COMMANDS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.startswith("mmsparse train: error: Not installed: mmengine. Install one stack: pip install")
    assert done.stderr.count("\n") == 1
    assert {"train 2", "scenes 0", "env 1", "mmengine     missing"} <= set(done.stdout.splitlines())


def run_without(*hidden):
    done = subprocess.run([sys.executable, "-c", WITHOUT, *hidden], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(line.split(": ", 1) for line in done.stdout.splitlines() if line.startswith("Dynamic"))


@pytest.mark.parametrize("hidden", [("mmdet",), ("mmseg", "mmdet")], ids="-".join)
def test_what_extends_a_missing_library_says_so(hidden):
    told = run_without(*hidden)
    assert told["DynamicConvNeXt"] == "DynamicConvNeXt"
    for name in ("DynamicRetinaHead", "DynamicFPN"):
        assert told[name].startswith(f"{name} extends a class of mmdet. Not installed: mmdet. Install one stack: pip")
    if "mmseg" in hidden:
        assert told["DynamicSwin"].startswith("DynamicSwin extends a class of mmseg or mmdet. Not installed: mmseg, mm")
        assert told["DynamicUPerHead"].startswith("DynamicUPerHead extends a class of mmseg. Not installed: mmseg. ")
    else:
        assert told["DynamicSwin"] == "DynamicSwin"


@pytest.mark.parametrize("room, module", [(heads, "detection"), (heads, "segmentation"), (necks, "pyramids")])
def test_an_import_error_of_our_own_is_heard(room, module, monkeypatch):
    monkeypatch.setitem(sys.modules, f"{room.__name__}.{module}", None)
    with pytest.raises(ImportError, match=module):
        importlib.reload(room)
