"""Generated scenes: the same bytes always, annotations that say what is seen, and nothing given away by colour."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmsparse.cli.main import main
from mmsparse.datasets import scenes_io
from mmsparse.datasets.scenes import CLASSES, OBJECT_SIZES, PALETTE, SEG_CLASSES, Scene, render_scene
from mmsparse.datasets.scenes_io import ScenesArgs, coco_dict, picture_record, polygons, run_lengths, write_scenes
from mmsparse.datasets.textures import OBJECT_TEXTURES, pattern

SIZE, COUNT = 160, 200
ARGS = ScenesArgs(images=12, size=64, seed=3, val=4)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(0, "train", index, SIZE) for index in range(COUNT)]


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_picture_depends_on_its_arguments_alone(scenes: list[Scene]) -> None:
    for index in (7, 3):  # another order than the fixture's
        again = render_scene(0, "train", index, SIZE)
        assert np.array_equal(again.image, scenes[index].image)
        assert np.array_equal(again.labels, scenes[index].labels)
        assert [i.bbox for i in again.instances] == [i.bbox for i in scenes[index].instances]
    others = [render_scene(1, "train", 3, SIZE), render_scene(0, "val", 3, SIZE), scenes[4]]
    assert all(not np.array_equal(other.image, scenes[3].image) for other in others)


def test_names_and_colours_belong_together() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 8
    assert SEG_CLASSES[1:] == CLASSES
    assert len(PALETTE) == len(set(PALETTE)) == len(SEG_CLASSES)


def test_boxes_and_areas_are_those_of_the_masks(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.dtype == scene.labels.dtype == np.uint8
        for instance in scene.instances:
            ys, xs = np.nonzero(instance.mask)
            x, y, w, h = instance.bbox
            assert (x, y, x + w - 1, y + h - 1) == (xs.min(), ys.min(), xs.max(), ys.max())
            assert instance.area == len(xs) >= 16


def test_labels_are_the_visible_masks(scenes: list[Scene]) -> None:
    for scene in scenes:
        expected = np.ones((SIZE, SIZE), int)
        claimed = np.zeros((SIZE, SIZE), int)
        for instance in scene.instances:
            expected[instance.mask] = 0 if instance.iscrowd else instance.category + 2
            claimed += instance.mask
        assert claimed.max(initial=0) <= 1
        assert np.array_equal(scene.labels, expected)


def test_content_is_as_varied_as_promised(scenes: list[Scene]) -> None:
    objects = [i for scene in scenes for i in scene.instances if not i.iscrowd]
    counts = np.bincount([i.category for i in objects], minlength=8)
    assert len(counts) == 8
    assert counts.min() > 0.6 * counts.mean()
    sides = np.array([max(i.bbox[2:]) for i in objects]) / SIZE
    assert (sides < 0.12).mean() > 0.02
    assert (sides > 0.35).mean() > 0.02
    assert sides.max() < 1.2 * OBJECT_SIZES[1]
    coverage = np.mean([(scene.labels >= 2).mean() for scene in scenes])
    assert 0.05 < coverage < 0.25
    assert 0.02 < np.mean([not scene.instances for scene in scenes]) < 0.15
    assert 0.01 < np.mean([any(i.iscrowd for i in scene.instances) for scene in scenes]) < 0.12
    assert 2 < len(objects) / COUNT < 7


def test_small_pictures_have_objects_and_crowds_too() -> None:
    small = [render_scene(0, "train", index, 64) for index in range(150)]
    instances = [i for scene in small for i in scene.instances]
    assert any(i.iscrowd for i in instances)
    assert len({i.category for i in instances}) == 8
    assert 0.05 < np.mean([(scene.labels >= 2).mean() for scene in small]) < 0.25


def test_colours_do_not_name_the_class(scenes: list[Scene]) -> None:
    """A nearest-mean classifier on colour and contrast to the surroundings stays near chance (1 in 8)."""
    features, categories = [], []
    for scene in scenes:
        for i in scene.instances:
            ring = cv2.dilate(i.mask.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool) & ~i.mask
            inside, around = scene.image[i.mask].astype(float), scene.image[ring].astype(float)
            features.append(np.concatenate([inside.mean(0), inside.mean(0) - around.mean(0)]))
            categories.append(i.category)
    x, y = np.array(features), np.array(categories)
    x = (x - x.mean(0)) / x.std(0)
    half = len(x) // 2
    means = np.stack([x[:half][y[:half] == k].mean(0) for k in range(8)])
    guess = ((x[half:, None] - means) ** 2).sum(-1).argmin(1)
    assert (guess == y[half:]).mean() < 0.22


@pytest.mark.parametrize("kind", OBJECT_TEXTURES)
def test_patterns_are_half_and_half_on_average(kind: str) -> None:
    rng = np.random.default_rng(0)
    means = [pattern(rng, kind, (0, 0), (64, 64), period=8.0).mean() for _ in range(400)]
    assert abs(np.mean(means) - 0.5) < 0.03


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 100}, "'size'.*multiple of 32.*100"),
        ({"size": 32}, "'size'.*at least 64.*32"),
        ({"split": "test"}, "'split'.*train.*val.*'test'"),
        ({"seed": -1}, "'seed'.*-1"),
        ({"index": -2}, "'index'.*-2"),
    ],
)
def test_wrong_arguments_are_named(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        render_scene(**{"seed": 0, "split": "train", "index": 0, "size": 64, **change})


def test_coco_file_agrees_with_the_masks(scenes: list[Scene], tmp_path: Path) -> None:
    coco_api = pytest.importorskip("pycocotools.coco")
    path = tmp_path / "train.json"
    path.write_text(json.dumps(coco_dict([picture_record(scene) for scene in scenes], SIZE)))
    coco = coco_api.COCO(str(path))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert len(coco.getImgIds()) == COUNT  # the empty ones too
    assert min(coco.getAnnIds()) == 1
    for index, scene in enumerate(scenes):
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=index))
        assert len(annotations) == len(scene.instances)
        for annotation, instance in zip(annotations, scene.instances, strict=True):
            assert annotation["category_id"] == instance.category + 1
            assert annotation["area"] == instance.area
            assert annotation["bbox"] == list(instance.bbox)
            mask = coco.annToMask(annotation).astype(bool)
            if instance.iscrowd:
                assert np.array_equal(mask, instance.mask)
            else:
                assert (mask & instance.mask).sum() > 0.9 * (mask | instance.mask).sum()


def test_a_hole_stays_a_hole() -> None:
    mask_api = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((64, 64), bool)
    mask[10:40, 20:50] = True
    mask[15:20, 22:30] = mask[25:33, 40:48] = False
    instance = scenes_io.Instance(0, mask, (20, 10, 30, 30))
    found = mask_api.decode(mask_api.merge(mask_api.frPyObjects(polygons(instance), 64, 64))).astype(bool)
    assert np.array_equal(found, mask)


@pytest.mark.parametrize(
    ("rows", "counts"),
    [([[0, 1], [0, 1]], [2, 2]), ([[1, 0], [0, 0]], [0, 1, 3]), ([[0, 1], [1, 0]], [1, 2, 1]), ([[1, 1]], [0, 2])],
)
def test_run_lengths(rows: list[list[int]], counts: list[int]) -> None:
    mask = np.array(rows, bool)
    assert run_lengths(mask) == {"size": list(mask.shape), "counts": counts}


def test_files_on_disk(tmp_path: Path) -> None:
    assert write_scenes(tmp_path, ARGS, progress=False)
    assert json.loads((tmp_path / "scenes.json").read_text())["seed"] == 3
    names = {str(Path(name).parent): 0 for name in all_files(tmp_path)}
    assert set(names) == {"train/images", "train/labels", "val/images", "val/labels", "annotations", "."}
    scene = render_scene(3, "val", 2, 64)
    labels = cv2.imread(str(tmp_path / "val" / "labels" / "000002.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(labels, scene.labels)
    image = cv2.imread(str(tmp_path / "val" / "images" / "000002.jpg"))
    assert np.abs(image.astype(int) - scene.image).mean() < 10  # JPEG
    listed = json.loads((tmp_path / "annotations" / "val.json").read_text())["images"]
    assert [i["file_name"] for i in listed] == [f"{k:06d}.jpg" for k in range(4)]


def test_an_interrupted_run_continues_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scenes(tmp_path / "whole", ARGS, progress=False)
    rendered: list[tuple[str, int]] = []

    def failing(seed: int, split: str, index: int, size: int) -> Scene:
        if (split, index) == ("train", 7) and not rendered.count((split, index)):
            rendered.append((split, index))
            raise KeyboardInterrupt
        rendered.append((split, index))
        return render_scene(seed, split, index, size)

    monkeypatch.setattr(scenes_io, "render_scene", failing)
    out = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        write_scenes(out, ARGS, progress=False)
    assert not (out / "scenes.json").exists()
    with open(out / "annotations" / "train.jsonl", "a") as lines:
        lines.write('[{"torn')
    assert write_scenes(out, ARGS, progress=False)
    assert rendered.count(("train", 6)) == 1  # the first seven were not made again
    assert all_files(out) == all_files(tmp_path / "whole")


def test_a_lost_picture_is_made_again(tmp_path: Path) -> None:
    write_scenes(tmp_path, ARGS, progress=False)
    before = all_files(tmp_path)
    (tmp_path / "train" / "images" / "000005.jpg").unlink()
    assert write_scenes(tmp_path, ARGS, progress=False)
    assert all_files(tmp_path) == before
    assert not write_scenes(tmp_path, ARGS, progress=False)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "scenes"
    command = ["scenes", str(out), "--images", "6", "--size", "64", "--seed", "1"]

    def refused(argv: list[str]) -> str:
        with pytest.raises(SystemExit) as stop:
            main(argv)
        message = capsys.readouterr().err
        assert stop.value.code == 2
        assert message.count("\n") == 1
        return message

    assert main(command) == 0
    assert "Wrote 6 training and 1 held-out" in capsys.readouterr().out
    before = all_files(tmp_path)
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out
    other = [*command[:-1], "2"]
    assert "--overwrite" in refused(other)
    assert all_files(tmp_path) == before
    assert main([*other, "--images", "4", "--overwrite"]) == 0
    assert json.loads((out / "scenes.json").read_text())["images"] == 4
    assert len(list((out / "train" / "images").iterdir())) == 4
    capsys.readouterr()

    assert "'size'" in refused([*command, "--size", "100"])
    assert "'images'" in refused([*command, "--images", "0"])
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    assert "another folder" in refused(["scenes", str(tmp_path / "foreign"), *command[2:], "--overwrite"])
    assert "cannot write" in refused(["scenes", str(tmp_path / "foreign" / "thesis.txt" / "x"), *command[2:]])


def test_read_only_folder(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(SystemExit):
        main(["scenes", str(tmp_path / "x"), "--images", "2", "--size", "64", "--seed", "0"])
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "cannot write" in message
    assert "Permission denied" in message


@pytest.mark.parametrize(
    "error, status, message",
    [
        (
            OSError(28, "No space left on device"),
            2,
            "mmsparse scenes: error: cannot write OUT: No space left on device",
        ),
        (KeyboardInterrupt(), 130, "interrupted; the same command continues"),
    ],
)
def test_a_run_that_is_cut_off(
    error: BaseException, status: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def cut_off(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(scenes_io.Path, "mkdir", cut_off)
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(main(["scenes", str(tmp_path / "x"), "--images", "2", "--size", "64", "--seed", "0"]))
    assert stop.value.code == status
    assert capsys.readouterr().err == f"{message.replace('OUT', str(tmp_path / 'x'))}\n"


def test_stock_datasets_read_it(tmp_path: Path) -> None:
    det = pytest.importorskip("mmdet.datasets")
    seg = pytest.importorskip("mmseg.datasets")
    from mmengine.registry import DefaultScope

    write_scenes(tmp_path, ScenesArgs(images=60, size=64, seed=0, val=1), progress=False)
    expected = [render_scene(0, "train", index, 64) for index in range(60)]
    with DefaultScope.overwrite_default_scope("mmdet"):
        detection = det.CocoDataset(
            data_root=str(tmp_path),
            ann_file="annotations/train.json",
            data_prefix=dict(img="train/images/"),
            metainfo=dict(classes=CLASSES, palette=list(PALETTE[1:])),
            pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True)],
        )
        assert len(detection) == 60
        for index, scene in enumerate(expected):
            sample = detection[index]
            assert sample["gt_bboxes_labels"].tolist() == [i.category for i in scene.instances]
            assert sample["gt_ignore_flags"].tolist() == [i.iscrowd for i in scene.instances]
            for mask, instance in zip(sample["gt_masks"].masks, scene.instances, strict=True):
                assert (mask.astype(bool) ^ instance.mask).sum() <= 0.15 * instance.area
    with DefaultScope.overwrite_default_scope("mmseg"):
        segmentation = seg.BaseSegDataset(
            data_root=str(tmp_path),
            data_prefix=dict(img_path="train/images", seg_map_path="train/labels"),
            metainfo=dict(classes=SEG_CLASSES, palette=list(PALETTE)),
            reduce_zero_label=True,
            pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")],
        )
        for index, scene in enumerate(expected):
            labels = segmentation[index]["gt_seg_map"].astype(int)
            assert np.array_equal(labels, np.where(scene.labels == 0, 255, scene.labels.astype(int) - 1))
