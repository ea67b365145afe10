"""Pictures of where a network looked, as a user makes them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from commands import run_tool
from mmengine.registry import VISUALIZERS
from scenes import at

from mmsparse.analysis.report import macs_table, picture_macs
from mmsparse.apis import find_deciders
from mmsparse.cli.building import build_model, read_pictures, read_test_set
from mmsparse.configs import read_config
from mmsparse.visualization import panels

DETECTOR = "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py"
SEGMENTER = "configs/demo/dynamic-convnext-atto_k50_fpn_scenes.py"


@pytest.fixture
def untrained(tmp_path):
    """A checkpoint of random weights."""

    def save(config):
        torch.manual_seed(0)
        torch.save({"state_dict": build_model(read_config(config)).state_dict()}, tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    return save


def keep_maps(config, checkpoint, data, out, *more):
    place = [f"{key}={value}" for key, value in at(data).items() if "test_dataloader" in key]
    return run_tool("analysis_tools/keep_maps", config, checkpoint, "--out", out, *more, "--cfg-options", *place)


@pytest.mark.parametrize("config", [DETECTOR, SEGMENTER])
def test_three_panels_a_picture(config, untrained, scenes, tmp_path):
    code, out, err = keep_maps(config, untrained(config), scenes, tmp_path / "maps", "--num-images", "2")
    assert code == 0 and f"2 pictures in {tmp_path / 'maps'}" in out, err[-3000:]
    for name in ("0000.png", "0001.png"):
        picture = cv2.imread(str(tmp_path / "maps" / name))
        thirds = [picture[:, i * 1430 // 3 : (i + 1) * 1430 // 3] for i in range(3)]
        assert all(third.std() > 20 for third in thirds)  # none is blank
    assert len(list((tmp_path / "maps").iterdir())) == 2


@pytest.mark.parametrize("config", [DETECTOR, SEGMENTER])
def test_one_page_of_all_pictures(config, untrained, scenes, tmp_path):
    code, out, err = keep_maps(
        config, untrained(config), scenes, tmp_path / "maps", "--html", tmp_path / "new/page.html", "--num-images", "2"
    )
    assert code == 0 and f"2 pictures in {tmp_path / 'new/page.html'}" in out, err[-3000:]
    assert len(list((tmp_path / "maps").iterdir())) == 2
    page, cfg = (tmp_path / "new/page.html").read_text(), read_config(config, at(scenes))
    model, data = build_model(cfg), read_test_set(cfg)
    tabs = 1 + len(find_deciders(model))
    assert page.count("<section>") == 2 and page.count('type="radio"') == tabs
    assert page.count('<img class="keep ') == 2 * tabs
    assert all(f"<h2>{Path(data[n]['data_samples'].img_path).name}</h2>" in page for n in (0, 1))
    macs = macs_table(picture_macs(model, [data[0], data[1]]))
    (total,) = [line.split() for line in macs.splitlines() if line.startswith("total")]
    assert f"<td>total</td><td>{total[1]}</td><td>{total[2]}</td>" in page


def test_it_is_told_what_to_write(untrained, scenes, tmp_path):
    code, _, err = run_tool("analysis_tools/keep_maps", DETECTOR, untrained(DETECTOR))
    told = "Give a folder for pictures (--out), a file for a page (--html), or both"
    assert code == 2 and err.splitlines()[-1].endswith(told)
    code, _, err = run_tool("analysis_tools/keep_maps", DETECTOR, "none.pth", "--html", tmp_path)
    assert code == 2 and err.splitlines()[-1].endswith(f"`html` to be a file, but {str(tmp_path)!r} is a folder")


def test_a_network_that_decides_nothing_has_no_keep_map(untrained, scenes, tmp_path):
    dense = "configs/demo/atss_convnext-mini_scenes.py"
    code, _, err = keep_maps(dense, untrained(dense), scenes, tmp_path / "maps")
    assert code == 2 and not (tmp_path / "maps").exists()
    assert err.splitlines()[-1].endswith(
        f"{dense} has no dynamic part: it looks everywhere, there is no keep map to draw"
    )


def test_windows_have_no_keep_map_of_a_picture(untrained, scenes, tmp_path):
    options = [f"{key}={value}" for key, value in at(scenes).items() if "test_dataloader" in key]
    slide = ["model.test_cfg.mode=slide", "model.test_cfg.crop_size=(32,32)", "model.test_cfg.stride=(32,32)"]
    args = [SEGMENTER, untrained(SEGMENTER), "--out", tmp_path / "maps", "--cfg-options", *options, *slide]
    code, _, err = run_tool("analysis_tools/keep_maps", *args)
    told = f"{SEGMENTER} cuts pictures into windows, and keep maps are of whole ones: "
    assert code == 2 and err.splitlines()[-1].endswith(f"{told}--cfg-options model.test_cfg.mode=whole")


@pytest.mark.parametrize(
    "score_thr, caption", [(0.0, "detections, score > 0"), (0.9, "no detection has a score > 0.9")]
)
def test_third_caption_says_when_nothing_was_found(score_thr, caption, scenes, tmp_path, monkeypatch):
    captions = []
    monkeypatch.setattr(panels, "draw_where", lambda path, image, share, result, given, legend: captions.extend(given))
    cfg = read_config(DETECTOR, at(scenes))
    cfg.model.test_cfg.score_thr = 0.0  # untrained, it is sure of nothing
    visualizer = VISUALIZERS.build(dict(type="mmdet.DetLocalVisualizer", name=f"test {score_thr}"))
    visualizer.dataset_meta = dict(cfg.test_dataloader.dataset.metainfo)
    panels.draw_predictions(build_model(cfg), visualizer, read_pictures(cfg, 1)[0], tmp_path / "0.png", score_thr)
    assert captions == ["input", "where it looked: 50% of the decisions slow", caption]


def test_the_legend_names_the_classes_of_the_picture():
    meta = dict(classes=("sky", "cat", "dog"), palette=[[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    label_map = np.array([[[2, 2, 2, 0], [0, 255, 255, 255]]])  # 255: of no class
    assert list(panels.legend_of(label_map, meta).items()) == [("dog", [7, 8, 9]), ("sky", [1, 2, 3])]
    many = dict(classes=[f"class {i}" for i in range(20)], palette=[[i] * 3 for i in range(20)])
    legend = panels.legend_of(np.arange(20).reshape(1, 4, 5), many)
    assert list(legend)[:2] == ["class 0", "class 1"] and list(legend)[-2:] == ["class 10", "and 9 more"]


def test_a_segmentation_is_drawn_with_its_legend(scenes, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(panels, "draw_where", lambda *args: drawn.extend(args))
    cfg = read_config(SEGMENTER, at(scenes))
    data = read_test_set(cfg)
    visualizer = VISUALIZERS.build(dict(type="mmseg.SegLocalVisualizer", name="test legend", alpha=1.0))
    visualizer.dataset_meta = data.metainfo
    panels.draw_predictions(build_model(cfg), visualizer, data[0], tmp_path / "0.png")
    _path, _image, _share, result, captions, legend = drawn
    assert captions[2] == "segmentation" and legend.keys() <= set(data.metainfo["classes"])
    assert {tuple(colour) for colour in legend.values()} == {tuple(pixel) for pixel in result.reshape(-1, 3).tolist()}
