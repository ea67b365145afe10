"""A study of two trainings, the second from the first."""

import json

import pytest
from commands import run_tool
from scenes import ROOT, at, make

DENSE = str(ROOT / "configs/demo/atss_convnext-mini_scenes.py")
ROUTED = str(ROOT / "configs/demo/atss_dynamic-convnext-mini_k50_finetune_scenes.py")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make(tmp_path_factory.mktemp("scenes"))


def study(folder, runs, pairs=()):
    path = folder / "tiny.py"
    path.write_text(f"runs = {runs!r}\npairs = {list(pairs)!r}\n")
    return run_tool("misc/study", path, "--out-dir", folder / "out")


def test_runs_stand_on_each_other_and_are_done_once(scenes, tmp_path):
    options = {**at(scenes), "model.test_cfg.score_thr": 0.0, "param_scheduler": [], "custom_hooks": []}
    dense = dict(name="dense", config=DENSE, iterations=2, options=options)
    hooks = {"custom_hooks": [dict(type="mmsparse.SparsityHook")]}
    routed = dict(
        name="routed", config=ROUTED, start="dense", iterations=2, options={**options, **hooks}, at=["own", 0.8, 1.0]
    )
    code, out, err = study(tmp_path, [routed, dense], [("routed@1.0", "dense"), ("routed", "routed")])
    assert code == 0, err[-3000:]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results) == ["routed", "dense"] and list(results["routed"]) == ["own", "0.8", "1.0"]
    own, share, whole = (results["routed"][at] for at in ("own", "0.8", "1.0"))
    assert whole["macs"] == results["dense"]["own"]["macs"] > share["macs"] > own["macs"]
    assert share["macs"] / whole["macs"] == pytest.approx(0.8, abs=0.01)
    assert set(own["keep_ratio"].values()) == {0.5} and set(whole["keep_ratio"].values()) == {1.0}
    assert "routed - routed: +0.0000, 95 % in +0.0000 to +0.0000" in out and "routed@1.0 - dense: " in out
    before = (tmp_path / "out" / "dense" / "result.json").stat().st_mtime_ns
    code, again, _ = study(tmp_path, [routed, dense])
    assert code == 0 and "dense ..." in out and "dense ..." not in again and "routed" in again
    assert (tmp_path / "out" / "dense" / "result.json").stat().st_mtime_ns == before


def test_a_start_that_is_none_is_named(tmp_path):
    code, _, err = study(tmp_path, [dict(name="routed", config=ROUTED, start="dens")])
    assert code == 2 and "has no runs ['dens']; it has ['routed']" in err
