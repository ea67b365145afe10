"""Pictures of two sizes in one batch, through the libraries' own steps."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseTTAModel
from mmengine.optim import OptimWrapper
from small_networks import DETECTOR, SEGMENTER, pictures

import mmsparse
from mmsparse.analysis.focus import object_focus
from mmsparse.analysis.report import time_beside_dense
from mmsparse.apis import find_deciders, record_selections
from mmsparse.cli.building import build_model, build_plain
from mmsparse.engine import SparsityHook
from mmsparse.sparsity import Geometry, num_keep, valid_units

SMALL, MIDDLE, LARGE, PADDED = (70, 100), (50, 130), (128, 150), (128, 160)


def locations(name, grid, real, padded=PADDED):
    """How many locations (tiles of necks and heads, whose last ones may reach over the border) hold a real pixel."""
    tile = 1 if name.startswith("s") else 2
    strides = [stride for stride in (4, 8, 16, 32) if -(-padded[0] // (stride * tile)) == grid[0]]
    strides = [stride for stride in strides if -(-padded[1] // (stride * tile)) == grid[1]]
    high, wide = (-(-side // (strides[0] * tile)) for side in real)
    return high * wide


def check(taken, sizes, padded=PADDED):
    assert {name.split(".")[0][0] for name, _ in taken} == {"s", "n", "h"} or len(taken) > 4
    for name, selection in taken:
        expected = [num_keep(0.5, locations(name, selection.grid, size, padded)) for size in sizes]
        assert selection.keep_mask.sum(dim=1).tolist() == expected == selection.num_keep, name


@pytest.mark.parametrize("cfg", [DETECTOR, SEGMENTER], ids=["mmdet", "mmseg"])
def test_training_step(cfg):
    cfg = copy.deepcopy(cfg)
    for part in ("backbone", "neck", "bbox_head", "decode_head"):
        if part in cfg.model:
            cfg.model[part].sparsity.learn = "gate"  # what has a ratio loss
    model = build_plain(cfg).train()
    SparsityHook(loss_weight=1.0, score_weight=1.0).attach(model)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    with record_selections(model) as taken:
        logged = model.train_step(pictures(cfg, SMALL, LARGE), wrapper)
    check(taken, (SMALL, LARGE))
    errors = []
    for name, selection in taken:
        real = [locations(name, selection.grid, size) for size in (SMALL, LARGE)]
        assert logged[f"keep_ratio/{name}"] == pytest.approx(sum(selection.num_keep) / sum(real))
        errors += [(kept / number - 0.5) ** 2 for kept, number in zip(selection.num_keep, real, strict=True)]
    # exact counts, of the real locations: only rounding is left
    assert logged["loss_sparsity"].item() == pytest.approx(sum(errors) / len(errors), rel=1e-3) and max(errors) > 1e-6
    assert torch.isfinite(logged["loss_score"]) and torch.isfinite(logged["loss"])


def test_detector_test_step():
    model = build_model(DETECTOR)
    with record_selections(model) as taken:
        results = model.test_step(pictures(DETECTOR, SMALL, LARGE))
    check(taken, (SMALL, LARGE))
    assert len(results) == 2
    with record_selections(model) as taken:  # without data samples as ever
        model.backbone(torch.randn(2, 3, *PADDED))
    assert all(selection.num_keep == [num_keep(0.5, selection.keep_mask.shape[1])] * 2 for _, selection in taken)


def test_segmenter_test_step():
    """mmseg's preprocessor takes pictures of one size in evaluation, and pads them."""
    model = build_model(SEGMENTER)
    with record_selections(model) as taken:
        results = model.test_step(pictures(SEGMENTER, SMALL, SMALL))
    check(taken, (SMALL, SMALL), padded=(96, 128))
    assert [result.pred_sem_seg.shape for result in results] == [SMALL, SMALL]


def test_sliding_windows_count_everything():
    """They are crops of the padded picture."""
    model = build_model(SEGMENTER)
    model.test_cfg.update(mode="slide", crop_size=(64, 64), stride=(32, 32))
    with record_selections(model) as taken:
        model.test_step(pictures(SEGMENTER, SMALL))
    assert len(taken) > 10
    assert all(selection.num_keep == [num_keep(0.5, selection.keep_mask.shape[1])] for _, selection in taken)


def test_an_image_is_the_same_alone_and_in_a_padded_batch():
    """As far as the dense network lets it: the same choices here, since the stem sees no border."""
    model = build_model(DETECTOR)
    both = pictures(DETECTOR, SMALL, LARGE)
    alone = {key: value[:1] for key, value in both.items()}
    with record_selections(model) as mixed:
        model.test_step(copy.deepcopy(both))
    with record_selections(model) as single:
        model.test_step(copy.deepcopy(alone))
    counts = [selection.num_keep[0] for _, selection in mixed]
    assert counts == [selection.num_keep[0] for _, selection in single] and len(set(counts)) > 2


def test_latencies_are_of_real_sizes():
    model = build_model(DETECTOR)
    batch = model.data_preprocessor(pictures(DETECTOR, SMALL, LARGE), False)
    with record_selections(model) as taken:
        time_beside_dense(model, batch, rounds=1, warmup=0)
    names = [name for name, _ in taken]
    assert names.count("s2b1") == 2  # of the backbone's row and of the whole network's
    check(taken, (SMALL, LARGE))


def test_focus_leaves_padding_out():
    model = build_model(DETECTOR, keep_ratio=0.9999)  # of so few locations that is all
    batch = pictures(DETECTOR, SMALL, LARGE)
    each = [dict(inputs=image, data_samples=sample) for image, sample in zip(*batch.values(), strict=True)]
    assert object_focus(model, each) == dict(inside=1.0, outside=1.0)


def test_twice_is_once_and_wrappers_are_looked_through():
    model = build_plain(DETECTOR).eval()

    class TTA(BaseTTAModel):
        def merge_preds(self, data_samples_list):
            return data_samples_list

    for _ in range(2):
        mmsparse.ignore_padding(TTA(model))
    hook, runner = SparsityHook(), SimpleNamespace(model=model)
    hook.before_val(runner)
    hook.before_test(runner)
    assert len(model._forward_pre_hooks) == len(model._forward_hooks) == len(model.backbone._forward_pre_hooks) == 1
    with record_selections(model) as taken:
        TTA(model).test_step({key: [value] for key, value in pictures(DETECTOR, SMALL, LARGE).items()})
    check(taken, (SMALL, LARGE))
    hook.before_test(SimpleNamespace(model=torch.nn.Linear(1, 1)))  # a dense twin with the same hooks
    with pytest.raises(ValueError, match="ignore_padding: Linear has no dynamic part"):
        mmsparse.ignore_padding(torch.nn.Linear(1, 1))


def test_it_is_over_when_the_forward_is(monkeypatch):
    model = build_model(DETECTOR)

    def fail(*_):
        assert valid_units(Geometry((16, 20)), torch.zeros(2)) is not None
        raise KeyError("in the head")

    monkeypatch.setattr(model.bbox_head, "forward_single", fail)
    with pytest.raises(KeyError):
        model.test_step(pictures(DETECTOR, SMALL, LARGE))
    assert valid_units(Geometry((16, 20)), torch.zeros(2)) is None


def test_copies_watch_for_themselves():
    model = build_model(DETECTOR)
    twin = copy.deepcopy(model)
    with record_selections(twin) as taken:
        twin.test_step(pictures(DETECTOR, SMALL, LARGE))
    check(taken, (SMALL, LARGE))
    assert list(model.state_dict()) == list(build_plain(DETECTOR).state_dict())
    assert len(find_deciders(model)) == len(taken)


SEMI = Config(dict(
    default_scope="mmdet",
    model=dict(
        type="SemiBaseDetector",
        detector=DETECTOR.model,
        data_preprocessor=dict(type="MultiBranchDataPreprocessor", data_preprocessor=DETECTOR.model.data_preprocessor),
        semi_train_cfg=dict(cls_pseudo_thr=0.0, sup_weight=1.0, unsup_weight=1.0),
        semi_test_cfg=dict(predict_on="teacher"),
    ),
))  # fmt: skip


def test_student_and_teacher_of_a_semi_supervised_detector():
    """Three batches go through one call of the model, none by the forward of a detector inside."""
    model = build_plain(SEMI).train()
    SparsityHook(loss_weight=1.0).attach(model)
    sizes = dict(sup=(SMALL, LARGE), unsup_teacher=(LARGE, SMALL), unsup_student=(MIDDLE, LARGE))
    branches = {branch: pictures(DETECTOR, *pair) for branch, pair in sizes.items()}
    for batch in branches.values():
        for sample in batch["data_samples"]:
            sample.set_metainfo(dict(homography_matrix=np.eye(3, dtype=np.float32)))
    data = {key: {branch: batch[key] for branch, batch in branches.items()} for key in ("inputs", "data_samples")}
    with record_selections(model) as taken:
        model.train_step(data, OptimWrapper(torch.optim.SGD(model.student.parameters(), lr=1e-3)))
    each = len(taken) // 3
    for number, pair in enumerate(sizes.values()):  # the student, the teacher, the student
        check(taken[number * each : (number + 1) * each], pair)
    with record_selections(model.eval()) as taken:
        model.test_step(pictures(DETECTOR, SMALL, LARGE))
    check(taken, (SMALL, LARGE))
