"""Losses and targets, for whatever Hypothesis thinks of."""

import itertools
from operator import sub

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn import BATCHES, RATIOS, SEEDS, flags, normal
from hypothesis import given
from hypothesis import strategies as st

from mmsparse.sparsity import ratio_loss, score_loss
from mmsparse.sparsity.gain import GAIN, STAKE, gain_target
from mmsparse.sparsity.losses import (
    detection_distillation,
    feature_distillation,
    logit_distillation,
    pixel_distillation,
)


@st.composite
def gates(draw):
    """Hard ones (B, N), and which of them are valid, some in each picture."""
    batch, number = draw(BATCHES), draw(st.integers(1, 12))
    gate, valid = (draw(flags(batch * number)).view(batch, number) for _ in range(2))
    return gate.float(), torch.cat([torch.ones(batch, 1).bool(), valid[:, 1:]], dim=1)


@given(gates(), RATIOS, st.data())
def test_the_ratio_loss_is_the_squared_distance_in_any_order(decided, ratio, data):
    """Of each picture, or of all of them together, which is no farther."""
    gate, valid = decided
    pairs = list(zip(gate.tolist(), valid.tolist(), strict=True))
    kept = [[value for value, here in zip(*pair, strict=True) if here] for pair in pairs]
    order = torch.tensor(data.draw(st.permutations(range(len(gate)))))
    for per_image, parts in ((True, kept), (False, [list(itertools.chain(*kept))])):
        loss = ratio_loss(gate, ratio, per_image, valid)
        expected = np.mean([(sum(part) / len(part) - ratio) ** 2 for part in parts])
        assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
        torch.testing.assert_close(ratio_loss(gate[order], ratio, per_image, valid[order]), loss)
    assert ratio_loss(gate, ratio).item() >= ratio_loss(gate, ratio, per_image=False).item() - 1e-6


@given(gates(), SEEDS, st.data())
def test_both_answers_weigh_the_same_however_often_they_are(labels, seed, data):
    """The score loss is half the mean of either; it is zero where all are surely right."""
    target, valid = labels
    scores = normal(seed, *target.shape)
    loss = score_loss(scores, target, valid)
    wrong = F.softplus(torch.where(target > 0, -scores, scores))
    halves = [0.5 * wrong[valid & (target == answer)] for answer in (0, 1)]
    if all(len(half) for half in halves):
        torch.testing.assert_close(loss, sum(half.mean() for half in halves), rtol=1e-5, atol=1e-6)
    order = torch.tensor(data.draw(st.permutations(range(len(target)))))
    torch.testing.assert_close(score_loss(scores[order], target[order], valid[order]), loss)
    torch.testing.assert_close(score_loss(-scores, 1 - target, valid), loss)
    assert loss > 0 and score_loss(100 * (2 * target - 1), target, valid) == pytest.approx(0.0, abs=1e-6)
    assert score_loss(100 * (1 - 2 * target), target, valid) > 40


# losses of two lists of tensors (B, ...), and their shapes
DISTILLATIONS = [
    (lambda mine, theirs: feature_distillation(*mine, *theirs), [(6, 4)]),
    (lambda mine, theirs: logit_distillation(*mine, *theirs), [(5,)]),
    (lambda mine, theirs: pixel_distillation(*mine, *theirs), [(3, 2, 3)]),
    (
        lambda mine, theirs: detection_distillation([mine[:2], mine[2:]], [theirs[:2], theirs[2:]]),
        [(2, 3, 3), (2, 1, 2), (4, 3, 3), (4, 1, 2)],
    ),
]


@given(SEEDS, BATCHES, st.data())
def test_a_student_that_says_the_same_loses_nothing(seed, batch, data):
    order = torch.tensor(data.draw(st.permutations(range(batch))))
    for loss, shapes in DISTILLATIONS:
        student, teacher = (
            [normal(seed + 10 * who + part, batch, *shape) for part, shape in enumerate(shapes)] for who in range(2)
        )
        value = loss(student, teacher)
        assert loss(teacher, teacher).item() == pytest.approx(0.0, abs=1e-6) and value > 1e-3
        shuffled = loss([part[order] for part in student], [part[order] for part in teacher])
        torch.testing.assert_close(shuffled, value)


@given(SEEDS, BATCHES, st.permutations(range(3)))
def test_distilled_boxes_count_by_their_distance_where_there_are_objects(seed, batch, order):
    """Whichever level they are on, and as much as the teacher is sure of them."""
    logits, teacher, student = (
        [normal(seed + 10 * which + level, batch, 4, level + 1, 2) for level in range(3)] for which in range(3)
    )
    mirrored = [2 * theirs - mine for mine, theirs in zip(student, teacher, strict=True)]
    loss = detection_distillation([logits, student], [logits, teacher])
    for mine, theirs in (([logits, mirrored], [logits, teacher]), ([logits, teacher], [logits, student])):
        torch.testing.assert_close(detection_distillation(mine, theirs), loss)
    again = [[part[level] for level in order] for part in (logits, student, teacher)]
    torch.testing.assert_close(detection_distillation(again[:2], [again[0], again[2]]), loss)
    seen, apart = (
        torch.cat([part.flatten(2) for part in parts], dim=2) for parts in (logits, list(map(sub, student, teacher)))
    )
    weight = seen.sigmoid().amax(dim=1)
    torch.testing.assert_close(loss, (weight * apart.abs().mean(dim=1)).sum() / weight.sum().clamp_min(1))


@given(SEEDS, BATCHES, st.floats(-20, 20), st.data())
def test_distilled_distributions_have_no_level_and_distilled_features_no_rest(seed, batch, level, data):
    student, teacher = normal(seed, batch, 5), normal(seed + 1, batch, 5)
    loss = logit_distillation(student, teacher)
    torch.testing.assert_close(logit_distillation(student + level, teacher - level), loss, rtol=1e-3, atol=1e-4)
    keep = data.draw(flags(batch * 5)).view(batch, 5)
    one, other = student.unsqueeze(2), teacher.unsqueeze(2)
    found = feature_distillation(torch.where(keep.unsqueeze(2), one, 100.0), other, keep)
    assert found.item() == pytest.approx(((one - other)[keep] ** 2).sum().item() / max(int(keep.sum()), 1), rel=1e-4)


@given(gates(), SEEDS, st.integers(-20, 20), st.floats(-50, 50))
def test_targets_of_gains_have_no_scale_and_keep_the_order(decided, seed, power, other):
    """Those of stakes have no sign either, and nothing depends on what was not seen."""
    seen = decided[1]
    gain = normal(seed, *seen.shape) ** 3
    target = gain_target(gain, seen)
    changed = torch.where(seen, gain, other)
    for way, again in ((GAIN, gain * 2.0**power), (GAIN, changed), (STAKE, -gain), (STAKE, gain.abs() * 2.0**power)):
        one, two = (gain_target(each, seen, way)[seen] for each in (gain, again))
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gain_target(-gain, seen), -target, rtol=1e-5, atol=1e-5)
    for row, values, here in zip(target, gain, seen, strict=True):
        assert row[here].mean().item() == pytest.approx(0.0, abs=1e-4)
        assert (row[here].square().mean() - 1).abs() < 0.01 or len(row[here]) == 1
        assert (row[here][values[here].argsort()].diff() >= -1e-5).all()
