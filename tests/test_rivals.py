"""What one could take instead of a routed network: which networks and forms, and the figures of a run."""

import argparse
import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from small_networks import DETECTOR
from torch import nn

from mmsparse.cli.building import build_model
from mmsparse.cli.commands.benchmark import add_arguments, run
from mmsparse.cli.mistakes import Parser
from mmsparse.cli.rivals import run_rivals
from mmsparse.deploy import rivals
from mmsparse.deploy.rivals import Form, Results, Row, networks_of, smaller, table, time_rivals

SIZE = (96, 128)


@pytest.fixture(scope="module")
def networks():
    return networks_of(build_model(copy.deepcopy(DETECTOR)), SIZE, {})


@pytest.fixture(scope="module")
def rows(networks, tmp_path_factory):
    how = "backbone", 1, 1, 3, 1, tmp_path_factory.mktemp("rivals")
    found = time_rivals(networks, [Form("eager"), Form("onnx", "bf16")], *how)
    return found + time_rivals(networks[1:2], [Form("openvino")], *how)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_networks_are_many_variants_of_one_function(networks, tmp_path):
    found = time_rivals(5 * networks[1:2], [Form("compiled")], "backbone", 1, 1, 1, 0, tmp_path)
    assert [(row.form, len(row.times), row.why) for row in found] == 5 * [("compiled f32", 1, "")]


def row(network: str, times: list[float], macs: int = 1, form: str = "eager f32", shape: str = "96x128") -> Row:
    return Row("model", 1, 1, form, network, shape, macs, times=times)


def test_who_the_rivals_are(networks):
    assert [network.name for network in networks] == ["dense", "routed", "smaller picture"]
    dense, routed, less = networks
    assert set(budgets(dense.model)) == {1.0} and set(budgets(routed.model)) == {0.5}
    assert less.model is dense.model and less.shape == (96, 96)
    for mine, other in zip(dense.model.parameters(), routed.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def budgets(model: nn.Module) -> list[float]:
    from mmsparse.apis import get_keep_ratio

    return list(get_keep_ratio(model).values())


def test_a_dense_network_has_no_rivals():
    with pytest.raises(ValueError, match="Sequential has no dynamic part"):
        networks_of(nn.Sequential(), SIZE, {})


@pytest.mark.parametrize(
    "shape, share, expected",
    [((800, 1344), 0.6, (608, 1056)), ((512, 512), 0.25, (256, 256)), ((32, 32), 0.1, (32, 32))],
)
def test_a_smaller_picture_has_that_share_of_the_pixels(shape, share, expected):
    assert smaller(shape, share) == expected


def test_every_network_in_every_form(rows):
    assert [found.network for found in rows] == [*2 * ["dense", "routed", "smaller picture"], "routed"]
    assert [found.form for found in rows[::3]] == ["eager f32", "onnx bf16", "openvino f32"]
    for found in rows[:3] + rows[6:]:
        assert len(found.times) == 3 and min(found.times) > 0 and found.why == ""
        assert found.layout in ("", "channels-last")
    dense, routed, less = rows[:3]
    assert dense.macs > routed.macs and dense.macs > less.macs and less.shape == "96x96"
    for found in rows[3:6]:  # what a form lacks is told in its place
        assert found.times == [] and found.why.startswith("Onnx exports in f32, but --precision is bf16")


def test_a_ratio_is_the_median_of_each_rounds():
    slow = row("dense", [100.0, 400.0, 90.0])
    fast = row("routed", [50.0, 100.0, 60.0])
    assert fast.speedup(slow) == 2.0
    assert fast.ms == 60.0 and fast.percentile(90) == pytest.approx(92.0)


def test_the_table():
    rows = [
        row("dense", [200.0], int(8e9)),
        row("routed", [100.0], int(4e9)),
        row("smaller picture", [80.0], int(4e9), shape="64x96"),
        row("dense", [50.0], int(8e9), "onnx f32"),
        Row("model", 1, 1, "onnx f32", "routed", "96x128", int(4e9), why="cannot"),
        row("smaller picture", [20.0], int(4e9), "onnx f32", "64x96"),
    ]
    assert table(rows).splitlines() == [
        "| ms | dense | routed | smaller picture, 64x96 |",
        "| :-- | --: | --: | --: |",
        "| by MACs | 8 G | 2.00x | 2.00x |",
        "| eager f32 | 200 | 100 (2.00x) | 80.0 (2.50x) |",
        "| onnx f32 | 50.0 | no | 20.0 (2.50x) |",
    ]


def test_results_go_on_where_they_were(tmp_path):
    path = tmp_path / "rivals.json"
    results = Results.begin(path, {"config": "a"})
    results.rows.append(row("dense", [1.0]))
    results.write(path)
    again = Results.begin(path, {"config": "a"})
    assert again == results and again.of("model", 1, 1) == results.rows and again.of("model", 1, 2) == []
    with pytest.raises(ValueError, match=r"`out`: .*rivals.json has results of another run \(config differ\)"):
        Results.begin(path, {"config": "b"})
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds no results of mmsparse benchmark --rivals"):
        Results.begin(path, {"config": "a"})


def test_a_form_by_its_name():
    assert Form.read("openvino-bf16") == Form("openvino", "bf16")
    assert Form.read("torch-export") == Form("torch-export", "f32")


def test_an_unknown_form():
    with pytest.raises(ValueError, match="`forms`: expected eager, compiled, onnx, .* but got 'tensorrt'"):
        Form.read("tensorrt")


def test_the_command_writes_what_it_tells(tmp_path, capsys, monkeypatch):
    config, out = tmp_path / "small.py", tmp_path / "out" / "rivals.json"
    DETECTOR.dump(config)
    parser = Parser()
    add_arguments(parser)
    line = f"""{config} --shape 64 96 --batch-sizes 1 --rounds 1 --warmup 0 --threads 1 --forms eager --parts backbone
        --rivals {config} --out {out}""".split()
    run(parser.parse_args(line))
    told = capsys.readouterr().out
    found = Results.read(out)
    assert [r.network for r in found.rows] == ["dense", "routed", "smaller picture", "small"]
    assert table(found.rows) in told and str(out) in told
    page = json.loads(out.read_text())
    assert page["setup"]["shape"] == [64, 96] and page["setup"]["versions"]["torch"] and page["setup"]["budgets"]
    monkeypatch.setattr("mmsparse.cli.rivals.time_rivals", None)  # nothing is timed twice
    run(parser.parse_args(line))
    assert table(found.rows) in capsys.readouterr().out
    with pytest.raises(ValueError, match="--rivals needs --shape H W"):
        run(parser.parse_args([str(config), "--rivals"]))
    assert not list(Path(out.parent).glob("*.tmp"))


@pytest.mark.parametrize("long, calls", [(10.0, 2), (0.0, 1)])
def test_what_ran_before_has_ended(long, calls, monkeypatch):
    """A runtime's threads spin on when it is done: none may be timed meanwhile, and no short run when it is cold."""
    done = []
    monkeypatch.setattr(rivals.time, "sleep", lambda seconds: done.append(f"slept {seconds}"))
    monkeypatch.setattr(rivals, "LONG", long)
    assert 0 < rivals._undisturbed(lambda: done.append("ran")) < 10.0
    assert done == ["slept 0.1", *["ran"] * calls]


def test_what_cannot_be_exported_is_timed_without_rivals():
    args = argparse.Namespace(shape=[64, 64], parts=["model"])
    with pytest.raises(ValueError, match="--rivals .without it, .* PyTorch.: A Conv2d cannot be exported whole"):
        run_rivals(nn.Conv2d(3, 3, 1), args, [1])
