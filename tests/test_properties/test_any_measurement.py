"""Calibration, rivals and intervals, for whatever Hypothesis thinks of."""

import contextlib
import io
import itertools
import json
import math
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import SEEDS, one_in
from hypothesis import assume, example, given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmsparse.analysis.intervals import PictureAP, difference
from mmsparse.deploy import calibration, rivals
from mmsparse.deploy.calibration import BIN, CERTAIN, STEP, Group, Measured, OutOfReachError, levelled, solve, trade_off
from mmsparse.deploy.rivals import Results, Row, smaller

DENSE = 0.5  # metric of the dense network


@st.composite
def exact_groups(draw):
    """Groups that save whole bins, and have no ratios between those that were measured; and their metric, or none."""
    groups, known = [], draw(st.booleans())
    for name in range(draw(st.integers(1, 3))):
        saved = sorted(draw(st.lists(st.integers(0, 600), min_size=1, max_size=3)), reverse=True)
        first, metrics = draw(st.integers(1, 15)), st.integers(0, 60).map(lambda hundredths: hundredths / 100)
        costs = [(round(STEP * (first + place), 2), 1 - BIN * bins) for place, bins in enumerate(saved)]
        at = [Measured(ratio, cost, draw(metrics) if known else None, cost) for ratio, cost in costs]
        groups.append(Group([f"p{name}"], at))
    return groups, DENSE if known else None


@st.composite
def any_groups(draw):
    """Groups of whatever a noisy machine may say."""
    groups, known = [], draw(st.booleans())
    for name in range(draw(st.integers(1, 3))):
        ratios = sorted(draw(st.sets(st.floats(0.02, 0.98), min_size=1, max_size=4)))
        shares, errors = st.floats(0.4, 1.1), st.floats(0, 0.05)
        metrics = st.floats(0, 0.6) if known else st.none()
        at = [Measured(ratio, draw(shares), draw(metrics), draw(shares), draw(errors)) for ratio in ratios]
        groups.append(Group([f"p{name}", f"q{name}"], at))
    return groups, DENSE if known else None


KINDS = st.sampled_from(["time", "macs"])


def choices(groups, kind, dense):
    """(what is saved, what is lost) of all there are."""
    options = [group.options(kind, dense) for group in groups]
    return [tuple(map(sum, zip(*((saved, lost) for _, saved, lost in each)))) for each in itertools.product(*options)]


@given(exact_groups(), KINDS, st.data())
def test_the_best_choice_is_found(measured, kind, data):
    groups, dense = measured
    sums = [(round(saved / BIN), lost) for saved, lost in choices(groups, kind, dense)]
    most = max(saved for saved, _ in sums)
    wanted = min(data.draw(st.sampled_from(sums))[0] + data.draw(st.integers(0, 1)), most)
    found = solve(groups, 1 - BIN * wanted, kind, dense)
    assert found.loss == pytest.approx(min(lost for saved, lost in sums if saved >= wanted), abs=1e-9)
    assert found.cost <= 1 - BIN * wanted + 1e-9
    with pytest.raises(OutOfReachError):
        solve(groups, 1 - BIN * (most + 2), kind, dense)


@given(any_groups(), KINDS, st.floats(0.0, 1.0))
def test_no_choice_exceeds_its_limit_nor_is_much_worse_than_another(measured, kind, limit):
    groups, dense = measured
    room = (len(groups) + 1) * BIN  # by the roundings of bins
    sums = choices(groups, kind, dense)
    try:
        found = solve(groups, limit, kind, dense)
    except OutOfReachError:
        assert limit < 1 - max(saved for saved, _ in sums)
        return
    assert found.cost <= limit + room
    assert all(found.loss <= lost + 1e-9 for saved, lost in sums if saved >= 1 - limit + room)
    own = [found.ratios[group.places[0]] for group in groups]
    assert found.ratios == {place: ratio for group, ratio in zip(groups, own, strict=True) for place in group.places}
    costs = [1 - group.cost(ratio, kind) for group, ratio in zip(groups, own, strict=True)]
    assert found.cost == pytest.approx(1 - sum(costs))
    assert found.loss == pytest.approx(sum(group.loss(ratio, dense) for group, ratio in zip(groups, own, strict=True)))


@one_in(2)
@given(any_groups(), KINDS)
def test_less_is_never_worth_more(measured, kind):
    """From the dense network down to the floor, and in any order of the groups."""
    groups, dense = measured
    found = trade_off(groups, kind, dense, points=12)
    limits = np.linspace(1.0, 0.0, 12)[: len(found)]
    losses = [each.loss for each in found]
    assert losses == pytest.approx(sorted(losses), abs=1e-9) and found
    assert all(each.cost <= limit + (len(groups) + 1) * BIN for each, limit in zip(found, limits, strict=True))
    assert [each.loss for each in trade_off(groups[::-1], kind, dense, points=12)] == pytest.approx(losses, abs=1e-9)


@given(any_groups(), KINDS, st.lists(st.floats(0.0, 1.0), min_size=2, max_size=2))
def test_costs_fall_and_losses_rise_with_lower_ratios(measured, kind, places):
    groups, dense = measured
    for group in groups:
        low, high = group.at[0].keep_ratio, group.at[-1].keep_ratio
        one, other = (low + place * (high - low) for place in sorted(places))
        assert group.cost(one, kind) <= group.cost(other, kind) + 1e-12
        assert group.loss(one, dense) >= group.loss(other, dense) - 1e-12
        assert group.cost(1.0, kind) == 1.0 and group.loss(1.0, dense) == 0.0


@st.composite
def timed_groups(draw):
    """Groups around the same base, each timed by itself."""
    base, groups = draw(st.sampled_from([0.2, 0.5, 0.8])), []
    for name in range(draw(st.integers(1, 4))):
        times, errors = st.floats(0.1, 1.5), st.floats(0, 0.05)
        at = [Measured(ratio, ratio, None, draw(times), draw(errors)) for ratio in (0.2, 0.5, 0.8)]
        groups.append(Group([f"p{name}"], at, Measured(1.0, 1.0, None, draw(times), draw(errors)), base))
    return groups


def times(groups):
    return np.array([[each.time for each in (*group.at, group.whole)] for group in groups])


@given(timed_groups())
def test_levelled_groups_agree_on_their_base_alone(groups):
    found, base = levelled(groups), [0.2, 0.5, 0.8].index(groups[0].base)
    assert times(found)[:, base] == pytest.approx(np.median(times(groups)[:, base]))
    of_base = times(groups) / times(groups)[:, base, None]
    assert times(found) / times(found)[:, base, None] == pytest.approx(of_base)
    assert times(levelled(found)) == pytest.approx(times(found))
    assert times(levelled(groups[::-1])) == pytest.approx(times(found)[::-1])


def slower_group(time, error, whole):
    """Of places that were timed by themselves, at their base."""
    return Group(["p"], [Measured(0.2, 0.2, None, time, error)], Measured(1.0, 1.0, None, whole), 0.2)


@given(timed_groups())
@example([slower_group(0.5, 0.0, 1.0), slower_group(1.125, 0.0234375, 1.1875)])
def test_levelling_changes_no_verdict(groups):
    """On what is certainly faster, or not by a hair."""
    hair = 1e-9
    for group in groups:
        timed, whole = group.at[0], group.whole
        assume(abs(timed.time + CERTAIN * math.hypot(timed.error, whole.error) - whole.time) > hair)
    assert [group.pays() for group in levelled(groups)] == [group.pays() for group in groups]


def row(times):
    return Row("model", 1, 1, "eager f32", "", "", 1, times=list(times))


@given(st.lists(st.tuples(*[st.floats(0.1, 100)] * 3), min_size=1, max_size=9), st.floats(0.1, 10))
def test_what_slows_a_round_slows_its_share_nowhere(rounds, factor):
    own, dense, slow = map(np.array, zip(*rounds))
    share, error = calibration.share_of(row(own), row(dense))
    assert calibration.share_of(row(own * slow), row(dense * slow)) == pytest.approx((share, error), abs=1e-9)
    assert calibration.share_of(row(factor * own), row(dense)) == pytest.approx((factor * share, factor * error))
    assert calibration.share_of(row(factor * dense), row(dense)) == pytest.approx((factor, 0.0), abs=1e-9)
    assert row(own).speedup(row(dense)) == pytest.approx(np.median(dense / own))


SHAPES = st.tuples(st.integers(1, 2048), st.integers(1, 2048))


@given(SHAPES, st.lists(st.floats(1e-3, 1.0), min_size=2, max_size=2).map(sorted), st.integers(1, 64))
def test_smaller_pictures_keep_their_proportions(shape, shares, divisor):
    less, more = (smaller(shape, share, divisor) for share in shares)
    for found, side in zip(less, shape, strict=True):
        wanted = math.sqrt(shares[0]) * side
        assert found % divisor == 0 and abs(found - max(wanted, divisor)) <= divisor / 2 + 1e-6
    assert all(a <= b for a, b in zip(less, more, strict=True))
    assert smaller(shape[::-1], shares[0], divisor) == less[::-1]
    whole = (shape[0] * divisor, shape[1] * divisor)
    assert smaller(whole, 1.0, divisor) == whole


WORDS = st.text(max_size=6)
TIMED_ROWS = st.builds(
    Row,
    *(WORDS, st.integers(1, 8), st.integers(1, 8), WORDS, WORDS, WORDS, st.integers(0, 10**12), WORDS),
    st.lists(st.floats(0, 1e6), max_size=3),
    WORDS,
)


@one_in(2)
@given(st.dictionaries(WORDS, WORDS | st.integers() | st.none(), max_size=3), st.lists(TIMED_ROWS, max_size=4))
def test_results_are_read_as_they_were_written(setup, rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        Results(setup, rows).write(path)
        assert Results.read(path) == Results(setup, rows) == Results.begin(path, setup)
    assert rivals.Form.read("openvino-int8") == rivals.Form("openvino", "int8")


@given(any_groups() | timed_groups().map(lambda groups: (groups, None)))
def test_groups_are_read_as_they_were_written(measured):
    for group in measured[0]:
        assert Group.read(json.loads(json.dumps(asdict(group)))) == group


class Scored:
    """A detector that is as good as its pictures' mean."""

    def __init__(self, values):
        self.values, self.pictures = np.array(values), list(range(len(values)))

    def __call__(self, picks=None):
        return float(self.values[slice(None) if picks is None else picks].mean())


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8), SEEDS, st.floats(-1, 1))
def test_an_interval_holds_its_estimate_and_is_of_the_difference(pairs, seed, more):
    one, other = (Scored(values) for values in zip(*pairs))
    found = difference(one, other, draws=100, seed=seed)
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    assert found.value == pytest.approx(one() - other(), abs=1e-9)
    swapped = difference(other, one, draws=100, seed=seed)
    assert (-swapped.value, -swapped.high, -swapped.low) == pytest.approx((found.value, found.low, found.high))
    better = difference(Scored(one.values + more), other, draws=100, seed=seed)
    shifted = (found.value + more, found.low + more, found.high + more)
    assert (better.value, better.low, better.high) == pytest.approx(shifted, abs=1e-9)
    alike = difference(one, one, draws=100, seed=seed)
    assert (alike.value, alike.low, alike.high) == (0, 0, 0)


def pictures(seed, number):
    """Of each, the objects and what is found: boxes (x, y, w, h), classes and scores; most objects are found."""
    draw, found = np.random.default_rng(seed), []
    for _ in range(number):
        objects, guesses = (
            draw.integers((0, 0, 5, 5, 0, 1), (40, 40, 30, 30, 2, 9), (draw.integers(1, 4), 6)).tolist() for _ in "ab"
        )
        found.append((objects, [*objects[1:], *guesses]))
    return found


def coco_files(folder, found):
    """Annotations of pictures, and what was found on them as COCO has it."""
    truth = dict(images=[], annotations=[], categories=[dict(id=3, name="one"), dict(id=8, name="two")])
    results = []
    for number, (objects, guesses) in enumerate(found, start=1):
        truth["images"].append(dict(id=number, file_name="", width=80, height=80))
        for boxes, page in ((objects, truth["annotations"]), (guesses, results)):
            for *box, label, score in boxes:
                of = dict(image_id=number, category_id=(3, 8)[label], bbox=box, area=box[2] * box[3], iscrowd=0)
                page.append(dict(of, id=len(page) + 1, score=score))
    path = folder / "truth.json"
    path.write_text(json.dumps(truth))
    return path, results


def coco_precision(path, results):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def dumped(found):
    """As mmdet writes what was found."""
    pages = []
    for number, (_, guesses) in enumerate(found, start=1):
        table = torch.tensor(guesses, dtype=torch.float64)
        corners = torch.cat([table[:, :2], table[:, :2] + table[:, 2:4]], dim=1)
        instances = dict(bboxes=corners, scores=table[:, 5], labels=table[:, 4].int())
        pages.append(dict(img_id=number, pred_instances=instances))
    return pages


@one_in(2)
@given(SEEDS, st.integers(2, 4), st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_drawn_pictures_are_a_data_set_of_them(seed, number, picks):
    """Its mAP is that of COCO's own evaluation, however often a picture was drawn."""
    found, picks = pictures(seed, number), [pick % number for pick in picks]
    with tempfile.TemporaryDirectory() as folder:
        drawn = PictureAP(coco_files(Path(folder), found)[0], dumped(found), ("one", "two"))
        for chosen in (picks, range(number)):
            expected = coco_precision(*coco_files(Path(folder), [found[pick] for pick in chosen]))
            assert drawn(chosen) == pytest.approx(expected, abs=1e-9)
        assert drawn() == drawn(range(number))
