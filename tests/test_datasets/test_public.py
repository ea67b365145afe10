"""Public data sets: from the layouts of their authors to what our configs load."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, MODELS, init_default_scope
from mmengine.structures import PixelData
from scenes import ROOT
from torch.nn import functional as F

from mmsparse.cli.main import main
from mmsparse.configs import read_config
from mmsparse.datasets import public
from mmsparse.datasets.public import LAYOUTS, convert_data

BOARDS = {"00041000": "3 1 9 8 3\n1,2,5,9,6\n0 0 4 4 0\n", "44000007": "2 2 8 8 1\n", "92000001": "0 4 6 9 2\n"}
CELLS = {"train": "Blood_0", "val": "Blood_2", "test": "Blood_1"}
BOX = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
CELL = BOX.format("Platelets", 3, 4, 9, 12) + BOX.format("RBC", 5, 5, 5, 5) + BOX.format("WBC", 1, 1, 32, 24)
DENSE = {
    "deeppcb": "deeppcb/atss_convnext-nano_fpn_deeppcb.py",
    "bccd": "bccd/atss_convnext-nano_fpn_bccd.py",
    "camvid": "camvid/convnext-nano_upernet_camvid.py",
}


def put_picture(path: Path, width: int, height: int, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.name)).integers(0, 12, (height, width, channels), dtype=np.uint8)
    assert cv2.imwrite(str(path), values)


def put_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def put_boards(root: Path) -> None:
    lines = {"trainval": "", "test": ""}
    for name, boxes in {**BOARDS, "12000000": "1 1 2 2 1\n"}.items():
        board = name[:5]
        for kind in ("test", "temp"):
            put_picture(root / f"group{board}/{board}/{name}_{kind}.jpg", 300, 280)
        put_text(root / f"group{board}/{board}_not/{name}.txt", boxes)
        listed = f"group{board}/{board}/{name}.jpg group{board}/{board}_not/{name}.txt\n"
        lines["trainval" if name in BOARDS else "test"] += listed
    for split, text in lines.items():
        put_text(root / f"{split}.txt", text)


def put_cells(root: Path) -> None:
    for split, name in CELLS.items():
        put_picture(root / f"JPEGImages/{name}.jpg", 32, 24, channels=3)
        put_text(root / f"Annotations/{name}.xml", f"<annotation>{CELL}</annotation>")
        put_text(root / f"ImageSets/Main/{split}.txt", f"{name}\n")


def put_roads(root: Path) -> None:
    for split in ("train", "val", "test"):
        put_picture(root / split / f"{split}_0.png", 480, 360, channels=3)
        put_picture(root / f"{split}annot" / f"{split}_0.png", 480, 360)


PUT = {"deeppcb": put_boards, "bccd": put_cells, "camvid": put_roads}


@pytest.fixture(params=PUT)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def source(kind: str, tmp_path: Path) -> Path:
    """The published folder of the data set; its sub-folder is the one that the converter wants."""
    PUT[kind](tmp_path / "source" / LAYOUTS[kind].folder)
    return tmp_path / "source"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def config(kind: str, out: Path) -> Config:
    """The dense config, with its data at ``out``."""
    cfg = read_config(str(ROOT / "configs" / DENSE[kind]))
    for split in ("train", "val"):
        cfg[f"{split}_dataloader"].dataset.data_root = str(out)
    init_default_scope(cfg.default_scope)
    return cfg


def loaded(cfg: Config, split: str) -> list[Any]:
    dataset = DATASETS.build(cfg[f"{split}_dataloader"].dataset)
    return [dataset[index] for index in range(len(dataset))]


@pytest.mark.parametrize("kind", ["deeppcb"], indirect=True)
def test_boards(kind: str, source: Path, tmp_path: Path) -> None:
    convert_data(kind, source, tmp_path / "out", progress=False)
    annotations = {f"annotations/{split}.json" for split in ("train", "val")}
    assert files(tmp_path / "out") == annotations | {"train/00041000.jpg", "val/44000007.jpg", "val/92000001.jpg"}
    assert json.loads((tmp_path / "out/annotations/train.json").read_text()) == {
        "images": [{"id": 1, "file_name": "00041000.jpg", "width": 300, "height": 280}],
        "annotations": [
            {"id": 1, "image_id": 1, "bbox": [3, 1, 6, 7], "area": 42, "category_id": 3, "iscrowd": 0},
            {"id": 2, "image_id": 1, "bbox": [1, 2, 4, 7], "area": 28, "category_id": 6, "iscrowd": 0},
        ],
        "categories": [
            {"id": number, "name": name}
            for number, name in enumerate(("open", "short", "mousebite", "spur", "copper", "pin-hole"), start=1)
        ],
    }
    board = source / "PCBData/group00041/00041/00041000_test.jpg"
    assert (tmp_path / "out/train/00041000.jpg").read_bytes() == board.read_bytes()

    cfg = config(kind, tmp_path / "out")
    cfg.train_dataloader.dataset.pipeline = cfg.val_dataloader.dataset.pipeline  # which crops nothing
    objects = loaded(cfg, "train")[0]["data_samples"].gt_instances
    assert objects.bboxes.tensor.tolist() == [[3, 1, 9, 8], [1, 2, 5, 9]]
    assert objects.labels.tolist() == [2, 5]
    assert [sample["data_samples"].gt_instances.labels.tolist() for sample in loaded(cfg, "val")] == [[0], [1]]


@pytest.mark.parametrize("kind", ["bccd"], indirect=True)
def test_cells(kind: str, source: Path, tmp_path: Path) -> None:
    written = convert_data(kind, source, tmp_path / "out", progress=False)
    assert (written.pictures, written.left_out) == ({"train": 1, "val": 1}, 2)  # of each picture one, without an area
    annotations = {f"annotations/{split}.json" for split in ("train", "val")}
    assert files(tmp_path / "out") == annotations | {"train/Blood_0.jpg", "val/Blood_2.jpg"}
    (sample,) = loaded(config(kind, tmp_path / "out"), "val")
    assert sample["inputs"].shape == (3, 240, 320)
    objects = sample["data_samples"].gt_instances
    assert objects.bboxes.tensor.tolist() == [[3, 4, 9, 12], [1, 1, 32, 24]]  # of the picture as it is
    assert objects.labels.tolist() == [2, 1]


@pytest.mark.parametrize("kind", ["camvid"], indirect=True)
def test_roads(kind: str, source: Path, tmp_path: Path) -> None:
    convert_data(kind, source, tmp_path / "out", progress=False)
    folders = [f"{folder}/{split}" for folder in ("images", "labels") for split in ("train", "val")]
    assert files(tmp_path / "out") == {f"{folder}/{folder.rpartition('/')[2]}_0.png" for folder in folders}
    (sample,) = loaded(config(kind, tmp_path / "out"), "val")
    for folder, found in (
        ("val", sample["inputs"].permute(1, 2, 0)),
        ("valannot", sample["data_samples"].gt_sem_seg.data[0]),
    ):
        original = cv2.imread(str(source / "CamVid" / folder / "val_0.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(found.numpy(), original)


def test_what_is_trained_on_has_the_size_of_the_config(kind: str, source: Path, tmp_path: Path) -> None:
    convert_data(kind, source, tmp_path / "out", progress=False)
    (sample,) = loaded(config(kind, tmp_path / "out"), "train")
    assert tuple(sample["inputs"].shape[1:]) == {"deeppcb": (256, 256), "bccd": (224, 256), "camvid": (240, 320)}[kind]


def test_classes_of_the_config_are_those_of_the_layout(kind: str) -> None:
    cfg = read_config(str(ROOT / "configs" / DENSE[kind]))
    head = cfg.model.get("bbox_head") or cfg.model.decode_head
    assert cfg.metainfo.classes == LAYOUTS[kind].classes
    assert head.num_classes == len(cfg.metainfo.palette) == len(LAYOUTS[kind].classes)


def test_label_11_counts_neither_in_the_loss_nor_in_the_metric(tmp_path: Path) -> None:
    """Nor do the borders that fill up a batch."""
    from mmseg.structures import SegDataSample

    cfg = config("camvid", tmp_path)
    model = MODELS.build(cfg.model)
    labels = torch.arange(200 * 300).reshape(1, 200, 300) % 12
    sample = SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo=dict(img_shape=(200, 300)))
    batch = dict(inputs=[torch.zeros(3, 200, 300)], data_samples=[sample])
    (filled,) = model.data_preprocessor(batch, training=True)["data_samples"]
    labels = filled.gt_sem_seg.data
    assert labels.shape == (1, 240, 320) and labels[:, 200:].unique().tolist() == [11]

    logits = torch.randn(1, 11, 240, 320)
    counted = labels[0] != 11
    expected = F.cross_entropy(logits[0].permute(1, 2, 0)[counted], labels[0][counted])
    losses = model.decode_head.loss_by_feat(logits, [filled])
    torch.testing.assert_close(losses["loss_ce"], expected)

    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dict(cfg.metainfo)
    predicted = torch.where(labels == 11, 3, labels)
    metric.process({}, [dict(gt_sem_seg=dict(data=labels), pred_sem_seg=dict(data=predicted))])
    assert metric.evaluate(size=1) == {"aAcc": 100.0, "mIoU": 100.0, "mAcc": 100.0}


def test_pictures_are_links_or_else_copies(
    kind: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*paths: Path) -> None:
        raise OSError("another disk")

    for links in (2, 1):
        out = tmp_path / str(links)
        convert_data(kind, source / LAYOUTS[kind].folder, out, progress=False)
        pictures = [path for path in out.rglob("*") if path.suffix in (".jpg", ".png")]
        assert {path.stat().st_nlink for path in pictures} == {links}
        monkeypatch.setattr(public.os, "link", no_links)
    assert {path: (tmp_path / "2" / path).read_bytes() for path in files(tmp_path / "2")} == {
        path: (tmp_path / "1" / path).read_bytes() for path in files(tmp_path / "1")
    }


def test_interrupted_work_leaves_nothing(
    kind: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*paths: Path) -> None:
        raise KeyboardInterrupt

    command = ["convert-data", kind, str(source), str(tmp_path / "data/out")]
    with monkeypatch.context() as patch:
        patch.setattr(public, "link_or_copy", interrupt)
        assert main(command) == 130
    assert list((tmp_path / "data").iterdir()) == []
    (tmp_path / "data/out").mkdir()  # an empty one is as good as none
    assert main(command) == 0
    val, left_out = {"deeppcb": (2, 0), "bccd": (1, 2), "camvid": (1, 0)}[kind]
    told = f"Wrote 1 training and {val} held-out pictures to {tmp_path}/data/out"
    assert capsys.readouterr().out == f"{told}{f'; left out: {left_out} boxes without an area' if left_out else ''}\n"
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["out"]


def edit(path: str, text: str) -> Callable[[Path], None]:
    return lambda source: put_text(source / path, text)


def remove(*paths: str) -> Callable[[Path], None]:
    return lambda source: [(source / path).unlink() for path in paths]


BOARD = "PCBData/group44000/44000_not/44000007.txt"
XML = "BCCD/Annotations/Blood_0.xml"


@pytest.mark.parametrize(
    "kind, spoil, message",
    [
        ("deeppcb", remove(BOARD), "1 of 6 files are missing in .*: group44000/44000_not/44000007.txt. Fetch"),
        ("deeppcb", remove("PCBData/trainval.txt"), "not laid out as deeppcb: there is no 'trainval.txt' in it. Give"),
        ("deeppcb", edit(BOARD, "2 2 8 1\n"), "44000007.txt' has the line '2 2 8 1', but expected is x1 y1 x2 y2 type"),
        ("deeppcb", edit(BOARD, "2 2 8 8 7\n"), "44000007.txt' has the type 7, but expected is one of 0 to 6. Fetch"),
        ("deeppcb", edit("PCBData/trainval.txt", "a\n"), "has the line 'a', but expected is a picture and an annotat"),
        ("deeppcb", edit("PCBData/trainval.txt", "\n"), "lists no pictures of 'train'. Fetch all of it"),
        ("bccd", edit(XML, "<annotation>"), "Blood_0.xml' has no XML .*, but expected is an annotation of Pascal VOC"),
        ("bccd", edit(XML, f"<a>{BOX.format('Cat', 1, 1, 2, 2)}</a>"), "an object 'Cat', but expected is one of RBC"),
        ("bccd", edit(XML, f"<a>{BOX.format('RBC', 1, 1, 2, '')}</a>"), "a box .*, but expected is xmin, ymin, xmax"),
        ("bccd", edit("BCCD/JPEGImages/Blood_0.jpg", ""), "Blood_0.jpg' cannot be read as a picture. Fetch it anew"),
        ("bccd", remove("BCCD/ImageSets/Main/val.txt"), "there is no 'JPEGImages' in it. Give the folder BCCD of http"),
        ("bccd", edit("BCCD/ImageSets/Main/train.txt", "a\nb\nc\n"),
         r"6 of 8 files are missing in .*: JPEGImages/a.jpg, Annotations/a.xml, JPEGImages/b.jpg, \.\.\.\. Fetch"),
        ("camvid", remove("CamVid/trainannot/train_0.png"), "1 of 4 files are missing in .*: trainannot/train_0.png"),
        ("camvid", remove("CamVid/train/train_0.png"), "1 of 4 files are missing in .*: train/train_0.png. Fetch"),
        ("camvid", lambda source: put_picture(source / "CamVid/trainannot/train_0.png", 480, 360, channels=3),
         r"has shape \(360, 480, 3\) and labels up to 11, but expected is \(360, 480\) as its picture, and 0 to 11"),
        ("camvid", lambda source: put_picture(source.parent / "out/mine.png", 8, 8), "Argument `out`: .* is not empty"),
    ],
)  # fmt: skip
def test_mistakes_end_in_a_sentence(
    kind: str, spoil: Callable[[Path], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PUT[kind](tmp_path / "source" / LAYOUTS[kind].folder)
    spoil(tmp_path / "source")
    before = files(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["convert-data", kind, str(tmp_path / "source"), str(tmp_path / "out")])
    assert ended.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, told), told
    assert told.startswith("mmsparse convert-data: error: Argument `")
    assert files(tmp_path) == before
