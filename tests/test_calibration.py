"""The ratios that follow from what places cost and are worth, and what measures that."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from small_networks import DETECTOR

from mmsparse.apis import budget, get_keep_ratio
from mmsparse.cli.building import build_model
from mmsparse.cli.calibrating import MEASURED, Page, part_configs, reach, say_groups, say_reached, write_ratios
from mmsparse.deploy.calibration import (
    BIN,
    FEW,
    TIE,
    Bench,
    Group,
    Measured,
    OutOfReachError,
    groups_of,
    levelled,
    nothing_routed,
    share_of,
    solve,
    what_pays,
)
from mmsparse.deploy.rivals import Form, Row

SIZE = (96, 128)


def group(name, *at):
    """Of (keep ratio, share of arithmetic, metric, share of time, error)."""
    return Group([name], [Measured(*each) for each in at])


HEAD = group("head", (0.2, 0.5, 0.38, 0.6, 0.01), (0.6, 0.75, 0.40, 0.8, 0.01))
BACKBONE = group("backbone", (0.2, 0.8, 0.20, 0.9, 0.01), (0.6, 0.9, 0.36, 0.95, 0.01))
SLOWER = group("neck", (0.2, 0.9, 0.40, 0.99, 0.02), (0.6, 0.95, 0.40, 1.01, 0.02))


@pytest.mark.parametrize("kind", ["time", "macs"])
def test_cost_is_a_line_between_what_was_measured(kind):
    costs = dict(time=(0.6, 0.7, 0.8), macs=(0.5, 0.625, 0.75))[kind]
    assert [HEAD.cost(ratio, kind) for ratio in (0.2, 0.4, 0.6)] == pytest.approx(costs)
    assert HEAD.cost(1.0, kind) == 1.0
    assert {ratio for ratio, _, _ in HEAD.options(kind, 0.4)} == {*(i / 100 for i in range(20, 61)), 1.0}


def test_cost_never_falls_with_a_higher_ratio():
    noisy = group("a", (0.1, 0.5, None, 0.50), (0.2, 0.6, None, 0.52), (0.4, 0.7, None, 0.51))
    assert [noisy.cost(ratio, "time") for ratio in (0.1, 0.2, 0.3, 0.4)] == pytest.approx([0.5, 0.52, 0.52, 0.52])


def test_loss_never_falls_with_a_lower_ratio_and_never_is_a_gain():
    lucky = group("head", (0.2, 0.5, 0.41), (0.4, 0.6, 0.36), (0.6, 0.75, 0.42))
    lost = [lucky.loss(ratio, 0.40) for ratio in (0.2, 0.4, 0.5, 0.6, 1.0)]
    assert lost == pytest.approx([0.1 + TIE * 0.5, 0.1 + TIE * 0.4, 0.05 + TIE * 0.325, TIE * 0.25, 0.0])
    assert lucky.loss(0.4, None) == pytest.approx(0.4)  # without a metric it is arithmetic


def test_above_what_a_network_was_trained_at_it_may_gain_or_lose():
    at = [Measured(r, r, metric) for r, metric in ((0.2, 0.37), (0.3, 0.38), (0.5, 0.40), (0.7, 0.41))]
    trained = Group(["head"], at, Measured(1.0, 1.0, 0.36), 0.5)
    lost = [trained.loss(ratio, 0.40) - TIE * (1.0 - ratio) for ratio in (0.2, 0.3, 0.5, 0.7, 1.0)]
    assert lost == pytest.approx([0.075, 0.05, 0.0, -0.025, 0.1])
    assert [loss for _, _, loss in trained.options("macs", 0.40)][:2] == pytest.approx([0.0, 0.075 - 0.1 + 0.8 * TIE])


@pytest.mark.parametrize("whole", [0.4, None])
@pytest.mark.parametrize("kind, limit", [("time", 0.95), ("time", 0.7), ("time", 0.55), ("macs", 0.6), ("macs", 0.35)])
def test_no_other_choice_loses_less(kind, limit, whole):
    groups = [HEAD, BACKBONE, SLOWER]
    found = solve(groups, limit, kind, whole)
    options = [each.options(kind, whole) for each in groups]
    sums = [np.sum([(saved, loss) for _, saved, loss in each], axis=0) for each in itertools.product(*options)]
    best = min(loss for saved, loss in sums if saved >= 1.0 - limit)
    assert found.cost <= limit + len(groups) * BIN
    assert found.loss <= best + 1e-9
    costs = [each.cost(found.ratios[each.places[0]], kind) for each in groups]
    losses = [each.loss(found.ratios[each.places[0]], whole) for each in groups]
    assert found.cost == pytest.approx(1.0 - sum(1.0 - cost for cost in costs))
    assert found.loss == pytest.approx(sum(losses))


def test_what_is_not_certainly_faster_stays_whole():
    assert HEAD.pays() and BACKBONE.pays() and not SLOWER.pays()
    assert solve([HEAD, SLOWER], 0.6, "time", 0.4).ratios == {"head": 0.2, "neck": 1.0}
    assert solve([HEAD, SLOWER], 0.4, "macs", 0.4).ratios["neck"] == 0.2  # arithmetic is no matter of noise
    own = [group("a", (0.3, 0.7, None, 0.9, 0.04)), group("b", (0.5, 0.7, None, 0.9, 0.06))]
    assert what_pays(own) == {"a": 0.3, "b": 1.0}


def around(places, ratio, **at):
    """Groups of a network whose places save and lose alone, measured around ratios that are not the whole."""
    saves, loses = dict(a=0.3, b=0.5), dict(a=0.02, b=0.1)  # at keep 0, of all

    def network(ratios):
        time = 1.0 - sum((1.0 - ratios[place]) * saves[place] for place in saves)
        metric = 0.4 * (1.0 - sum((1.0 - ratios[place]) * loses[place] for place in loses))
        return dict(macs=time, metric=metric, time=time, error=0.001)

    base = dict(a=ratio, b=ratio)
    found = []
    for place in places:
        at = [Measured(each, **network({**base, place: each})) for each in (0.2, ratio, 1.0)]
        found.append(Group([place], at[:-1], at[-1], ratio))
    return found, network


@pytest.mark.parametrize("limit", [0.9, 0.7, 0.5])
def test_from_another_base_the_same_is_predicted(limit):
    groups, network = around("ab", 0.5)
    whole = nothing_routed(groups, "time", 0.4)
    assert whole.cost == pytest.approx(1.0) and whole.loss == pytest.approx(0.0, abs=1e-9)
    found = solve(groups, limit, "time", 0.4)
    truth = network(found.ratios)
    assert found.cost == pytest.approx(truth["time"]) and found.cost <= limit + BIN
    assert 0.4 * (1.0 - found.loss) == pytest.approx(truth["metric"] - 0.4 * TIE * (1.0 - truth["macs"]))
    with pytest.raises(OutOfReachError, match=r"^0.36 to 1.00$"):
        solve(groups, 0.3, "time", 0.4)


def test_a_machine_that_changes_between_calls_is_levelled():
    """What was timed in turn is compared with the base of its own call."""
    groups, network = around("ab", 0.5)
    (disturbed,) = [
        replace(group, at=[replace(at, time=1.4 * at.time) for at in group.at], whole=replace(group.whole, time=1.4))
        for group in around("a", 0.5)[0]
    ]
    assert disturbed.whole.time > groups[0].whole.time
    found = levelled([groups[0], disturbed, groups[1]])
    base = network(dict(a=0.5, b=0.5))["time"]
    assert [group.known(0.5).time for group in found] == pytest.approx([base] * 3)
    assert found[0] == groups[0] and found[1].at[0].time == pytest.approx(groups[0].at[0].time)
    dense = [group("a", (0.2, 0.5, None, 0.6, 0.01)), group("b", (0.2, 0.5, None, 0.7, 0.01))]
    assert levelled(dense) == dense


def test_what_pays_is_judged_beside_the_others_as_they_are():
    (group,) = around("a", 0.5)[0]
    assert group.pays()
    slower = Group(["a"], [Measured(0.5, 0.7, None, 0.8, 0.01)], Measured(1.0, 0.8, None, 0.79, 0.01), 0.5)
    assert not slower.pays() and what_pays([slower]) == {"a": 1.0}  # though 0.8 is less than the dense network's 1


def test_below_the_floor_the_range_is_named():
    with pytest.raises(OutOfReachError, match=r"^0.50 to 1.00$"):
        solve([HEAD, BACKBONE, SLOWER], 0.45, "time", 0.4)
    assert solve([HEAD, BACKBONE], 0.5, "time", 0.4).ratios == {"head": 0.2, "backbone": 0.2}


def test_share_of_a_noisy_round_is_of_that_round():
    dense, row = (Row("model", 1, 1, "eager f32", "", "", 1, times=times) for times in ([10.0, 20.0, 10.0], [5, 10, 6]))
    share, error = share_of(row, dense)
    assert share == pytest.approx(0.5) and error == pytest.approx(0.93 * 0.05 / 3**0.5)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(DETECTOR)


def test_places_of_a_part_that_save_little_are_measured_together(model):
    bench = Bench(model, Form("eager"), SIZE, 1, 1, 1, 0, None)
    saves = {place: 1.0 - bench.macs({place: 0.5}) / bench.macs({}) for place in get_keep_ratio(model)}
    assert saves["s2b1"] < FEW > saves["s3b0"] and saves["neck.fpn_convs.1.conv"] < FEW < saves["head.level1"]
    alone = [["neck.fpn_convs.0.conv"], ["neck.fpn_convs.1.conv"], ["head.level0"], ["head.level1"]]
    assert groups_of(model, SIZE) == [["s2b1", "s3b0"], *alone]
    with budget(dict(backbone=[0.4, 0.5]), model):  # they would get one ratio
        assert groups_of(model, SIZE) == [["s2b1"], ["s3b0"], *alone]


def test_a_bench_measures_and_leaves_the_model_as_it_is(model, tmp_path):
    before, asked = get_keep_ratio(model), []
    bench = Bench(model, Form("eager"), SIZE, 1, 1, 3, 0, tmp_path)
    found = bench.measure(["head.level0"], [0.8, 0.2, 0.5], evaluate=lambda ratios: asked.append(ratios) or 0.25)
    assert [at.keep_ratio for at in found.at] == [0.2, 0.5, 0.8]
    assert asked == [{"head.level0": ratio} for ratio in (0.2, 0.5, 0.8)]
    assert [at.time is None for at in found.at] == [False, True, False]
    assert [at.metric for at in found.at] == [0.25] * 3
    assert found.at[0].macs == bench.macs({"head.level0": 0.2}) / bench.macs({})
    assert found.at[0].macs < found.at[1].macs < found.at[2].macs < 1.0
    assert get_keep_ratio(model) == before


def test_a_bench_measures_around_a_base(model, tmp_path):
    own, asked = get_keep_ratio(model), []
    bench = Bench(model, Form("eager"), SIZE, 1, 1, 3, 0, tmp_path)
    evaluate = lambda ratios: asked.append(ratios) or ratios["head.level0"]  # noqa: E731
    found = bench.measure(["head.level0"], [0.2, 0.7], own, evaluate=evaluate)
    base = own["head.level0"]
    assert found.base == base < 0.7 and asked == [{**own, "head.level0": ratio} for ratio in (0.2, base, 0.7, 1.0)]
    assert [(at.keep_ratio, at.metric, at.time is None) for at in (*found.at, found.whole)] == [
        (0.2, 0.2, False), (base, base, False), (0.7, 0.7, False), (1.0, 1.0, False)
    ]  # fmt: skip
    assert found.known(base).macs == bench.macs(own) / bench.macs({})
    assert found.at[0].macs < found.at[1].macs < found.whole.macs < 1.0
    whole = bench.measure(["head.level0"], [0.2], {**own, "head.level0": 1.0}, timed=False)
    assert whole.base == 1.0 and [at.keep_ratio for at in whole.at] == [0.2] and whole.whole.time is None


def test_a_noisy_machine_is_given_more_rounds(model, monkeypatch):
    """Until the ratio is known to a hundredth, or three times as many were not enough; exported once."""
    bench, names, quiet = Bench(model, Form("eager"), SIZE, 1, 1, 4, 0, None), [], [0]

    def rows(networks, *_):
        names.append([network.name for network in networks])
        noisy = [10.0, 5.0, 10.0, 5.0] if len(names) < quiet[0] else [5.0] * 8
        return [Row("model", 1, 1, "eager f32", "", "", 1, times=t) for t in ([10.0] * len(noisy), noisy)]

    monkeypatch.setattr("mmsparse.deploy.calibration.time_rivals", rows)
    for quiet[0], calls in ((1, 1), (2, 2), (9, 3)):
        names.clear()
        dense, row = bench.time_surely({"head.level0": 0.5})
        assert len(names) == calls and len(row.times) == len(dense.times) == {1: 8, 2: 12, 3: 12}[calls]
        assert {tuple(each) for each in names} == {("dense", "variant 1")}


def test_arithmetic_reaches_what_was_asked(model):
    bench = Bench(model, Form("eager"), SIZE, 1, 1, 1, 0, None)
    groups = [bench.measure(places, [0.1, 0.5, 0.9], timed=False) for places in groups_of(model, SIZE)]
    tried = list(reach(bench, groups, "macs", 0.8, None))
    best = min(tried, key=lambda each: abs(each["reached"] - 0.8))
    assert best["reached"] == bench.macs(best["ratios"]) / bench.macs({}) == pytest.approx(0.8, abs=0.03)
    said = say_groups(groups, best["ratios"], "")
    assert all(each.places[0] in said for each in groups)
    dense, own = dict(ms=10.0, metric=0.4, name="mIoU"), dict(ratios={}, macs=0.7, reached=0.7)
    said = say_reached(dense, dict(best, metric=0.39), dict(own, metric=0.38))
    assert "0.3900" in said and "0.3800" in said and "70.0%" in said and "They are kept" not in said
    said = say_reached(dense, dict(best, metric=0.39), dict(own, metric=0.40))
    assert said.endswith("The config's own ratios are better: they take no more and find no less. They are kept.")


def test_ratios_are_written_where_the_config_has_them(model):
    cfg = Config(DETECTOR.to_dict())
    own = build_model(cfg)
    write_ratios(cfg, own, {"head.level0": 0.123456})
    again = get_keep_ratio(build_model(cfg))
    assert again == {name: 0.1235 if name == "head.level0" else 1.0 for name in again}
    cfg.model.bbox_head.sparsity = None
    with pytest.raises(ValueError, match="bbox_head has keep ratios, but no `sparsity` in the config"):
        part_configs(cfg, own)
    assert isinstance(part_configs(Config(DETECTOR.to_dict()), own)["neck"], ConfigDict)


def test_measurements_go_on_and_are_not_mixed_up(tmp_path):
    path = tmp_path / "folder" / MEASURED
    page = Page(path, dict(shape=[64, 64], threads=1))
    page.begin(dict(ms=5.0, metric=None), {"head": 0.5})
    page.add(HEAD)
    again = Page(path, dict(shape=[64, 64], threads=1))
    assert again.dense == dict(ms=5.0, metric=None) and again.base == {"head": 0.5} and again.groups == [HEAD]
    with pytest.raises(ValueError, match=r"has figures of another run \(threads differ\). Name another folder"):
        Page(path, dict(shape=[64, 64], threads=2))
    path.write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="is no page of mmsparse calibrate"):
        Page(path, dict(shape=[64, 64], threads=1))
