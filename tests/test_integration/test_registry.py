"""`type='mmsparse.X'` from every scope, and nested parts under any default scope."""

import subprocess
import sys

import pytest
from mmengine.registry import DefaultScope

from mmsparse.engine import SparsityHook, TeacherHook
from mmsparse.models import DynamicConvNeXt
from mmsparse.registry import build_hooks
from mmsparse.sparsity import FeatureNormScorer, GumbelSelector, IdentityFastPath

CFG = dict(
    type="mmsparse.DynamicConvNeXt",
    arch="atto",
    sparsity=dict(
        scorer=dict(type="FeatureNormScorer"),
        selector=dict(type="GumbelSelector"),
        fast_path=dict(type="IdentityFastPath"),
    ),
)


@pytest.mark.parametrize("scope", ["mmdet", "mmseg", "mmpretrain"])
def test_builds_in_every_scope(scope):
    registry = __import__(f"{scope}.registry", fromlist=["MODELS"]).MODELS
    with DefaultScope.overwrite_default_scope(scope):
        model = registry.build(CFG.copy())
    assert isinstance(model, DynamicConvNeXt)
    decision = model.router.decisions["2_1"]
    assert isinstance(decision.scorer, FeatureNormScorer) and isinstance(decision.selector, GumbelSelector)
    assert isinstance(model.router.fast_paths["2_1"], IdentityFastPath)


# Torch is imported once, for all scopes.
FRESH = """
import importlib, multiprocessing
from mmengine.registry import HOOKS, init_default_scope

def build(scope):
    init_default_scope(scope)
    models = importlib.import_module(scope + ".registry").MODELS
    model = models.build(dict(type="mmsparse.DynamicConvNeXt", arch="atto", sparsity=dict()))
    print(scope, type(model).__name__, type(HOOKS.build(dict(type="mmsparse.SparsityHook"))).__name__, flush=True)

for scope in ("mmdet", "mmseg", "mmpretrain"):
    child = multiprocessing.get_context("fork").Process(target=build, args=(scope,))
    child.start()
    child.join()
"""


def test_found_by_a_fresh_interpreter_without_imports():
    """No custom_imports, nothing of ours imported before."""
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    told = [line for line in done.stdout.splitlines() if line.startswith("mm")]
    expected = [f"{scope} DynamicConvNeXt SparsityHook" for scope in ("mmdet", "mmseg", "mmpretrain")]
    assert told == expected, done.stderr[-2000:]


@pytest.mark.parametrize(
    "hook, message",
    [
        (
            dict(type="mmsparse.SparsityHook", los_weight=1),
            "^mmsparse.SparsityHook has the unknown key 'los_weight'; SparsityHook knows .*'loss_weight'",
        ),
        (dict(type=TeacherHook, teachr="twin"), "^mmsparse.TeacherHook has the unknown key 'teachr'"),
        (
            dict(type="mmsparse.SparseHook"),
            r"^Argument `custom_hooks`: 'mmsparse.SparseHook' is none of \[.*'SeedHook', .*'SparsityHook', 'Teacher",
        ),
        (dict(type="mmsparse.SparsityHook", loss_weight=-1), "`loss_weight` to be >= 0, but got -1"),
    ],
)
def test_mistakes_in_hooks_are_told(hook, message):
    with pytest.raises(ValueError, match=message):
        build_hooks([dict(type="EMAHook", ours=False), hook])


def test_only_our_hooks_are_built_early():
    hooks = build_hooks([dict(type="EMAHook"), dict(type="mmsparse.SparsityHook", anneal=None, priority="LOW")])
    assert [type(hook) for hook in hooks] == [SparsityHook] and hooks[0].anneal is None


def test_importing_the_package_is_light():
    code = "import sys, mmsparse; print([m for m in ('torch', 'mmengine', 'mmcv', 'mmdet') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
