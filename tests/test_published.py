"""The weights that lie in the repository."""

import hashlib
import json
import re

import cv2
import pytest
import torch
import yaml
from scenes import ROOT

import mmsparse
from mmsparse.checkpoints import read_checkpoint
from mmsparse.cli.building import build_model
from mmsparse.configs import read_config
from mmsparse.datasets.boards import render_board
from mmsparse.packaged import weights_path

LISTED = yaml.safe_load((ROOT / "configs/published/metafile.yml").read_text())["Models"]
MODELS = {model["Name"]: model for model in LISTED if "Weights" in model}
ROUTED = "atss_dynamic-convnext-pico-w128_whole-m40_in-place_boards"


def test_they_are_few_and_each_is_what_its_name_says():
    files = [weights_path(model["Weights"]) for model in MODELS.values()]
    assert len(files) >= 2 and {file.resolve() for file in files} == set(ROOT.glob("configs/*/*.pth"))
    assert sum(file.stat().st_size for file in files) <= 8e6
    for name, file in zip(MODELS, files, strict=True):
        assert file.name == f"{name}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
        content = read_checkpoint(str(file), trust=False)
        assert content.keys() == {"meta", "state_dict"}
        assert {value.dtype for value in content["state_dict"].values()} == {torch.float16}
        assert re.findall(r"""['" =]/\w+""", json.dumps(content["meta"], default=str)) == []  # nobody's folders


def test_they_are_found_by_name():
    for name, model in MODELS.items():
        config, weights = mmsparse.published(name)
        assert config.endswith(model["Config"])
        assert mmsparse.published(name) == (config, weights)
        build_model(read_config(f"mmsparse::published/{name}"), f"mmsparse::published/{name}")
    with pytest.raises(ValueError, match=f"no weights of '{ROUTED[:-1]}' are published; the nearest is '{ROUTED}'"):
        mmsparse.published(ROUTED[:-1])


def test_a_stock_inferencer_takes_them_and_finds_defects(tmp_path):
    from mmdet.apis import DetInferencer
    from mmdet.structures.bbox import bbox_overlaps

    board = render_board(5, "val", 0, 1024)
    cv2.imwrite(str(tmp_path / "board.png"), board.image)
    inferencer = DetInferencer(*mmsparse.published(ROUTED), device="cpu", show_progress=False)
    (found,) = inferencer(str(tmp_path / "board.png"))["predictions"]
    sure = torch.tensor(found["scores"]) > 0.3
    boxes = torch.tensor([defect.bbox for defect in board.defects], dtype=torch.float32)
    boxes[:, 2:] += boxes[:, :2]
    same = torch.tensor(found["labels"])[sure] == torch.tensor([defect.category for defect in board.defects])[:, None]
    hits = (bbox_overlaps(boxes, torch.tensor(found["bboxes"])[sure]) > 0.5) & same
    assert len(boxes) >= 4 and hits.any(dim=1).float().mean() >= 0.5 and hits.any(dim=0).float().mean() >= 0.5
