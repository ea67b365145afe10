"""Where the cells of a decision stand on the picture: tiles at their stride, the last ones over the border."""

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData
from torch import nn

from mmsparse.analysis.focus import object_focus
from mmsparse.apis import pop_aux, record_selections
from mmsparse.engine import SparsityHook
from mmsparse.models import DynamicRPNHead
from mmsparse.sparsity import Geometry, Selection, score_loss
from mmsparse.visualization import slow_share

STRIDE, TILE = 8, 4
ANCHORS = dict(type="AnchorGenerator", scales=[8], ratios=[1.0], strides=[STRIDE, 2 * STRIDE])
PICTURE = (80, 112)
MAPS = [(10, 14), (5, 7)]  # tiles of 32 and of 64 pixels, (3, 4) and (2, 2) of them


def head():
    made = DynamicRPNHead(
        in_channels=8,
        feat_channels=8,
        anchor_generator=ANCHORS,
        sparsity=dict(keep_ratio=0.5, tile=TILE, scorer=dict(type="MLPScorer")),
    )
    for parameter in made.router.parameters():
        nn.init.normal_(parameter)
    return made.eval()


def maps():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 8, *size, generator=generator) for size in MAPS]


def test_cells_begin_and_end_at_whole_pixels_where_they_should():
    """Rounding would let an edge reach into a pixel beside it, or out of the picture."""
    for size in (7, 11, 13, 47, 61):
        for picture in range(size, 700, 3):
            selection = Selection(Geometry((size, size)), torch.ones(1, size * size, dtype=torch.bool))
            cells = torch.arange(size + 1)
            for edges in selection.edges((picture, picture)):
                assert torch.equal(edges.floor().long(), cells * picture // size)
                assert torch.equal(edges.ceil().long(), -(-cells * picture // size))


def on_picture(mask, cell):
    """Every pixel by itself."""
    return np.array([[mask[y // cell, x // cell] for x in range(PICTURE[1])] for y in range(PICTURE[0])])


def masks(taken):
    return [selection.keep_mask[0].view(selection.grid).numpy() for _, selection in taken]


def test_keep_maps_show_tiles_at_their_stride():
    with torch.no_grad(), record_selections(made := head()) as taken:
        made(maps())
    assert [selection.grid for _, selection in taken] == [(3, 4), (2, 2)]
    expected = [on_picture(mask, cell) for mask, cell in zip(masks(taken), (32, 64), strict=True)]
    assert 0 < expected[0].mean() < 1 and 0 < expected[1].mean() < 1
    np.testing.assert_array_equal(slow_share(taken, PICTURE), np.mean(expected, axis=0, dtype=np.float32))


class Sample(dict):
    """A data sample, as far as anything reads it here."""

    __getattr__ = dict.__getitem__


class Detector(nn.Module):
    """As much of one as the focus needs."""

    def __init__(self):
        super().__init__()
        self.head = head()

    def data_preprocessor(self, data, training):
        return dict(inputs=torch.stack(data["inputs"]), data_samples=data["data_samples"])

    def forward(self, inputs, data_samples, mode):
        return self.head(maps())


def test_focus_looks_at_the_centres_of_tiles_where_they_stand():
    box = [72.0, 0.0, 90.0, 31.0]  # the third tile of level 0, and of level 1 the centre of none
    instances = InstanceData(bboxes=torch.tensor([box]))
    picture = dict(inputs=torch.zeros(3, *PICTURE), data_samples=Sample(gt_instances=instances))
    with torch.no_grad(), record_selections(model := Detector()) as taken:
        model.head(maps())
    first, second = masks(taken)
    inside = float(first[0, 2])
    outside = [np.delete(first.flatten(), 2).mean(), second.mean()]
    found = object_focus(model, [picture])
    assert found == dict(inside=pytest.approx(inside), outside=pytest.approx(np.mean(outside)))


def check_targets(feats, picture, sample, *expected):
    """The hook's loss is that with the targets by hand, one for each map."""
    made = head().train()
    made(feats)
    decided = pop_aux(made)
    by_hand = [
        score_loss(d.scores, torch.tensor(target).float().view(1, -1))
        for d, target in zip(decided, expected, strict=True)
    ]
    loss = SparsityHook(score_weight=1.0)._supervise(decided, picture, [sample], 255)
    torch.testing.assert_close(loss, sum(by_hand) / len(by_hand))


def test_boxes_teach_the_tiles_that_they_touch():
    boxes = InstanceData(bboxes=torch.tensor([[30.0, 5.0, 31.5, 31.5]]))  # at the right end of the first tile
    check_targets(maps(), PICTURE, Sample(gt_instances=boxes), [[1, 0, 0, 0], [0] * 4, [0] * 4], [[1, 0], [0, 0]])


def test_edges_of_labels_teach_the_tiles_that_hold_them():
    labels = torch.zeros(1, *PICTURE, dtype=torch.long)
    labels[:, :, 30:] = 1  # an edge in the first tile of each row
    check_targets(maps(), PICTURE, Sample(gt_sem_seg=PixelData(data=labels)), [[1, 0, 0, 0]] * 3, [[1, 0]] * 2)


def test_two_maps_with_one_grid_of_tiles_have_targets_of_their_own():
    """Of a picture of 48 x 64: tiles of 32 x 32 pixels, and of 38.4 x 51.2."""
    feats = [torch.randn(1, 8, 6, 8), torch.randn(1, 8, 5, 5)]
    boxes = InstanceData(bboxes=torch.tensor([[33.0, 0.0, 34.0, 30.0]]))
    check_targets(feats, (48, 64), Sample(gt_instances=boxes), [[0, 1], [0, 0]], [[1, 0], [0, 0]])
