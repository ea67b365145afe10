"""What of the labels lies on the slow path."""

import copy
import math

import pytest
import torch
from mmengine.structures import PixelData
from small_networks import DETECTOR, SEGMENTER, pictures

from mmsparse.analysis.choice import CENTRES, _edges, chosen_by, chosen_by_labels, listening, shares
from mmsparse.analysis.wanted import objects_of
from mmsparse.apis import find_deciders, record_selections, set_keep_ratio
from mmsparse.calls import predict, prepare_batch
from mmsparse.cli.building import build_plain

SIZE = (128, 160)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build_plain(DETECTOR).eval()


def samples(cfg, boxes=None, *sizes):
    batch = pictures(cfg, *(sizes or [SIZE]))
    found = [dict(inputs=i, data_samples=s) for i, s in zip(*batch.values(), strict=True)]
    if boxes is not None:
        instances = found[0]["data_samples"].gt_instances
        instances = instances.new(bboxes=torch.tensor(boxes), labels=torch.zeros(len(boxes), dtype=torch.long))
        found[0]["data_samples"].gt_instances = instances
    return found


def test_objects_belong_to_the_level_of_their_anchors(detector):
    """RetinaNet's anchors here are squares of 4 strides: 16, 32, 64 and 128 pixels."""
    boxes = [[0.0, 0.0, 16.0, 16.0], [64.0, 64.0, 128.0, 128.0], [32.0, 96.0, 64.0, 128.0]]
    found = objects_of(detector, prepare_batch(detector, samples(DETECTOR, boxes)))
    assert found.levels.tolist() == [0, 2, 1]
    assert [tuple(level.shape) for level in found.positives] == [(32, 40), (16, 20), (8, 10), (4, 5)]
    alone = [objects_of(detector, prepare_batch(detector, samples(DETECTOR, [box]))) for box in boxes]
    for level, together in enumerate(found.positives):
        assert torch.equal(together, alone[0].positives[level] | alone[1].positives[level] | alone[2].positives[level])


def test_a_picture_without_objects_wants_nothing(detector):
    (sample,) = samples(DETECTOR)
    sample["data_samples"].gt_instances = sample["data_samples"].gt_instances[:0]
    found = objects_of(detector, prepare_batch(detector, [sample]))
    assert len(found.boxes) == len(found.levels) == 0 and not any(level.any() for level in found.positives)
    assert all(math.isnan(each["own"][0.5][CENTRES]) for each in shares(detector, [sample], ratios=[0.5]).values())


def test_listening_changes_nothing_and_hears_what_was_decided(detector):
    batch = prepare_batch(detector, samples(DETECTOR))
    with torch.no_grad(), record_selections(detector) as taken:
        before = predict(detector, copy.deepcopy(batch))
        with listening(detector) as seen:
            after = predict(detector, copy.deepcopy(batch))
    assert torch.equal(before[0].pred_instances.scores, after[0].pred_instances.scores)
    names = [decider.name for decider in find_deciders(detector)]
    assert [scored.place for scored in seen] == names == [name for name, _ in taken[len(names) :]]
    for scored, (_, selection) in zip(seen, taken, strict=False):
        assert torch.equal(scored.chosen("own", 0.5).keep_mask, selection.keep_mask)
        assert not torch.equal(scored.chosen("random", 0.5).keep_mask, selection.keep_mask)


def test_shares_are_those_of_the_masks(detector):
    one = [[0.0, 0.0, 16.0, 16.0]]  # of level 0: tile (0 or 1, 0 or 1) of 8 pixels, centre (8, 8)
    found = shares(detector, samples(DETECTOR, one), ratios=[0.25, 1.0])
    batch = prepare_batch(detector, samples(DETECTOR, one))
    with torch.no_grad(), listening(detector) as seen:
        predict(detector, batch)
    (level0,) = (scored for scored in seen if scored.place == "head.level0")
    chosen = level0.chosen("own", 0.25).keep_mask.view(16, 20)
    at = found["head.level0"]["own"][0.25]
    assert at[CENTRES] == chosen[1, 1]
    assert at["area"] == pytest.approx(chosen[:2, :2].float().mean().item())
    assert found["head.level0"]["own"][1.0] == {CENTRES: 1.0, "area": 1.0, "positives": 1.0}
    assert found["head.level0"]["own"]["budget"] == pytest.approx(
        shares(detector, samples(DETECTOR, one), ratios=[0.5])["head.level0"]["own"][0.5]
    )
    assert found["head, all levels"]["own"][0.25][CENTRES] == at[CENTRES]  # no other level has an object
    assert math.isnan(found["head.level1"]["own"][1.0][CENTRES])  # has no object
    assert found["s2b1"]["random"][1.0] == {CENTRES: 1.0, "area": 1.0}  # a backbone works for all levels


def test_the_labels_choose_what_they_want_first(detector):
    """Two pictures in a batch, the second without an object: there the place's own scores choose."""
    both = samples(DETECTOR, [[8.0, 8.0, 24.0, 24.0]], SIZE, SIZE)
    both[1]["data_samples"].gt_instances = both[1]["data_samples"].gt_instances[:0]
    batch = prepare_batch(detector, both[:1])
    batch["inputs"] = torch.cat([batch["inputs"], prepare_batch(detector, both[1:])["inputs"]])
    batch["data_samples"] = [*batch["data_samples"], both[1]["data_samples"]]
    (head,) = (d for d in find_deciders(detector) if d.name == "head.level0")

    def selection(context):
        with torch.no_grad(), context, record_selections(detector) as taken:
            detector(**batch, mode="tensor")
        return dict(taken)["head.level0"].keep_mask.view(2, 16, 20)

    set_keep_ratio(detector, {"backbone": 0.5, "neck": 0.5, "bbox_head": 4 / 320})
    try:
        own, by_labels = selection(chosen_by([], "random")), selection(chosen_by_labels(detector, [head]))
    finally:
        set_keep_ratio(detector, 0.5)
    assert by_labels[0, 1:3, 1:3].all() and by_labels[0].sum() == 4
    assert torch.equal(by_labels[1], own[1])


def test_segmenters_are_asked_for_edges_and_for_what_they_lost():
    torch.manual_seed(0)
    model = build_plain(SEGMENTER).eval()
    picture = samples(SEGMENTER)[0]
    labels = torch.zeros(1, *SIZE, dtype=torch.long)
    labels[:, :, 83:] = 1
    picture["data_samples"].gt_sem_seg = PixelData(data=labels)
    found = shares(model, [picture], ratios=[0.5])
    with torch.no_grad(), listening(model) as seen:
        predict(model, prepare_batch(model, [picture]))
    for scored in seen:
        slow = scored.chosen("own", 0.5).on_picture(SIZE)
        assert found[scored.place]["own"][0.5]["edges"] == pytest.approx(slow[:, 82].float().mean().item())
        assert 0.0 <= found[scored.place]["own"][0.5]["lost"] <= 1.0


def test_nothing_borders_on_what_is_ignored():
    labels = torch.tensor([[1, 1, 2], [1, 9, 2], [3, 3, 3]])
    expected = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 0, 0]], dtype=torch.bool)
    assert torch.equal(_edges(labels, 9), expected)
    expected[0, 1] = expected[1, 1] = True
    assert torch.equal(_edges(labels, 255), expected | (labels == 9))
