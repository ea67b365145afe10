"""``mmsparse choice``, as somebody with a bad result runs it."""

import json
from functools import partial

import cv2
import pytest
from commands import run_untrained
from scenes import ROOT, make

from mmsparse.cli.choosing import NARROWER, enough, say_losses, say_width

DETECTOR = "configs/demo/atss_dynamic-convnext-nano_whole-m60_fpn_finetune_scenes.py"
SEGMENTER = "configs/demo/dynamic-convnext-atto_k50_fpn_scenes.py"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return make(tmp_path_factory.mktemp("scenes"))


choice = partial(run_untrained, "analysis_tools/choice")


def test_a_detector_is_asked_by_everyone(scenes, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(f"_base_ = {str(ROOT / DETECTOR)!r}\nmodel = dict(test_cfg=dict(score_thr=0.0))\n")
    weights = tmp_path / "weights.pth"
    more = ("--dense", weights, "--narrower", other, weights, "--num-images", "2")
    code, out, err = choice(DETECTOR, scenes, tmp_path, *more, options=["model.test_cfg.score_thr=0.0"])
    assert code == 0, err[-3000:]
    assert "missing keys" not in out + err
    found = json.loads((tmp_path / "out" / "choice.json").read_text())
    assert set(found["shares"]) == {
        *("s0b0", "s1b0", "s2b0", "neck.fpn_convs.0.conv", "neck.fpn_convs.1.conv", "head.level0", "head.level1"),
        *("neck, all levels", "head, all levels"),
    }
    whole = found["shares"]["head.level0"]["own"]
    assert list(whole) == ["budget", "0.05", *(f"{i / 10}" for i in range(1, 10))]
    assert set(whole["budget"]) == {"centres", "positives", "area"}
    parts = ("backbone", "neck", "bbox_head")
    assert list(found["metrics"]) == [
        "its own scores", "the features' norm", "chance", *(f"the labels in the {part}" for part in parts),
        "the labels everywhere", *(f"{part} kept whole" for part in parts), "everything kept", "the dense checkpoint",
        "the narrower network",
    ]  # fmt: skip
    assert found["metrics"]["the narrower network"] == found["metrics"]["its own scores"]  # it is the same one
    assert found["macs"]["the narrower network"] == found["macs"]["its own scores"] > 0
    assert found["metrics"]["everything kept"] == found["metrics"]["the dense checkpoint"]  # they are one here
    assert "coco/bbox_mAP lost by training: 0.0000" in out
    assert cv2.imread(str(tmp_path / "out" / "choice.png")).std() > 20


def test_a_segmenter_is_asked_for_edges(scenes, tmp_path):
    code, out, err = choice(SEGMENTER, scenes, tmp_path, "--num-images", "2", "--no-metrics")
    assert code == 0, err[-3000:]
    assert "edges" in out and "lost" in out and "mIoU" not in out
    found = json.loads((tmp_path / "out" / "choice.json").read_text())
    assert "metrics" not in found and (tmp_path / "out" / "choice.png").is_file()


def test_mistakes(scenes, tmp_path):
    dense = "configs/demo/atss_convnext-mini_scenes.py"
    code, _, err = choice(dense, scenes, tmp_path)
    assert code == 2 and "has no dynamic part: it looks everywhere, there is no choice to look at" in err
    blind = tmp_path / "blind.py"
    blind.write_text(
        f"_base_ = {str(ROOT / SEGMENTER)!r}\n"
        "test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]\n"
        "test_dataloader = dict(dataset=dict(pipeline=test_pipeline))\n"
    )
    code, _, err = choice(str(blind), scenes, tmp_path)
    assert code == 2 and "has no labels, boxes or label maps, to hold the choice against" in err
    code, _, err = choice(SEGMENTER, scenes, tmp_path, "--no-metrics", "--narrower", dense, tmp_path / "weights.pth")
    assert code == 2 and "Argument `narrower`: what width is worth is told by the metric" in err
    code, _, err = choice(DETECTOR, scenes, tmp_path, options=["model.test_cfg.score_thr=1.0"])
    assert code == 2 and "finds nothing" in err


@pytest.mark.parametrize("numbers, most", [
    ((0.4, 0.6, 0.5, 0.61, 0.62), "most by choice: better scores"),
    ((0.4, 0.42, 0.41, 0.6, 0.62), "most by the fast path"),
    ((0.4, 0.42, 0.41, 0.43, 0.62), "most by training"),
    ((0.6, 0.5, 0.5, 0.5, 0.5), "nothing is lost"),
])  # fmt: skip
def test_what_is_lost_most_is_named(numbers, most):
    who = ["its own scores", "the labels in the neck", "the labels everywhere", "everything kept"]
    found = {name: {"mIoU": number} for name, number in zip([*who, "the dense checkpoint"], numbers, strict=True)}
    assert say_losses(found)[-1].startswith(most)
    assert "mIoU lost by choice" in say_losses(found)[0]


@pytest.mark.parametrize("own, dense, narrower, said", [
    (0.40, 0.42, 0.38, "width is worth 0.0400, of which routing keeps 0.0200"),
    (0.37, 0.42, 0.38, "width is worth 0.0400, of which routing keeps nothing: as it is, the narrower one"),
    (0.40, 0.42, 0.43, "width is worth nothing: take the narrower one"),
])  # fmt: skip
def test_what_width_is_worth(own, dense, narrower, said):
    numbers = {"its own scores": own, "everything kept": 0.5, "the dense checkpoint": dense, NARROWER: narrower}
    line = say_width(
        {who: {"mIoU": n} for who, n in numbers.items()}, {"its own scores": 1_500_000_000, NARROWER: 10**9}
    )
    assert line.startswith(f"mIoU: {said}") and "its own scores 1.50 and the narrower network 1.00" in line


def test_the_ratio_that_is_enough():
    curve = {"budget": {"centres": 1.0}, 0.2: {"centres": 0.5}, 0.4: {"centres": 0.98}, 0.3: {"centres": 0.97}}
    assert enough(curve, "centres") == "0.30"
    assert enough({0.9: {"centres": 0.9}}, "centres") == "> 0.9"
