"""Which files a config's data sets need, as their libraries would look for them."""

import pytest
from mmengine.config import Config

from mmsparse.cli.data_files import check_data, paths_of

COCO = dict(type="CocoDataset", data_root="data/coco/", ann_file="annotations/x.json", data_prefix=dict(img="train/"))
ADE = dict(type="ADE20KDataset", data_root="data/ade", data_prefix=dict(img_path="images", seg_map_path="labels"))


@pytest.mark.parametrize(
    "dataset, expected",
    [
        (COCO, ["data/coco/annotations/x.json", "data/coco/train/"]),
        (ADE, ["data/ade/images", "data/ade/labels"]),
        (dict(type="ImageNet", data_root="data/imagenet", split="train"), ["data/imagenet"]),
        (dict(type="CustomDataset", data_root="data/mine", ann_file="", data_prefix="train"), ["data/mine/train"]),
        (dict(type="RepeatDataset", dataset=ADE), ["data/ade/images", "data/ade/labels"]),
        (dict(type="ConcatDataset", datasets=[ADE, dict(data_root="b", ann_file="/a.txt")]),
         ["data/ade/images", "data/ade/labels", "/a.txt"]),
        (dict(type="mmpretrain.CIFAR10", data_root="data/cifar10"), []),
        (dict(COCO, backend_args=dict(backend="petrel")), []),
        (None, []),
    ],
)  # fmt: skip
def test_paths(dataset, expected):
    assert paths_of(dataset) == expected


def test_what_is_missing_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    cfg = Config(dict(train_dataloader=dict(dataset=dict(ADE, data_root=str(tmp_path))), val_dataloader=None))
    with pytest.raises(FileNotFoundError, match=f"`train_dataloader` is not there: '{tmp_path}/labels' does not exist"):
        check_data(cfg, "train", "val")
    (tmp_path / "labels").mkdir()
    check_data(cfg, "train", "val")
    cfg.val_evaluator = [dict(type="IoUMetric"), dict(type="CocoMetric", ann_file=f"{tmp_path}/x.json")]
    with pytest.raises(FileNotFoundError, match=r"`val_evaluator` is not there: .*options val_evaluator.ann_file=...$"):
        check_data(cfg, "train", "val")


def test_a_folder_without_such_files_is_named(tmp_path):
    for folder, name in (("images", "a/1.jpg"), ("labels", "a/1.png")):
        (tmp_path / folder / "a").mkdir(parents=True)
        (tmp_path / folder / name).touch()
    dataset = dict(ADE, data_root=str(tmp_path), seg_map_suffix=".png", img_suffix=".png")
    cfg = Config(dict(train_dataloader=dict(dataset=dataset)))
    with pytest.raises(FileNotFoundError, match=r"no file in .*images' ends in '.png'. .*dataset.img_suffix=...$"):
        check_data(cfg, "train")
    dataset["img_suffix"] = ".jpg"
    check_data(Config(dict(train_dataloader=dict(dataset=dataset))), "train")
