"""Pictures through a network, as a user runs them: what is written, what is not made again, what is refused."""

import json

import cv2
import numpy as np
import pytest
import torch
from scenes import CLASSES

from mmsparse.calls import predict, prepare_batch
from mmsparse.cli.building import build_model, meta_of, read_pictures
from mmsparse.cli.main import main
from mmsparse.cli.picture_files import find_pictures
from mmsparse.configs import read_config
from mmsparse.deploy import FORMATS, Wish, export

DETECTOR = "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py"
SEGMENTER = "configs/demo/dynamic-convnext-atto_k50_fpn_scenes.py"
CLASSIFIER = "configs/imagenet/dynamic-convnext-t_k70_32xb128-120e_in1k.py"
OPTIONS = {
    DETECTOR: {"model.test_cfg.score_thr": 0.0, "model.test_cfg.max_per_img": 7},  # untrained, it is sure of nothing
    SEGMENTER: {},
    CLASSIFIER: {"model.backbone.arch": "atto", "model.head.in_channels": 320},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of random weights of each config."""
    folder = tmp_path_factory.mktemp("weights")

    def save(config):
        path = folder / f"{OPTIONS[config].get('model.head.in_channels', 0)}{config[-15:]}.pth"
        if not path.exists():
            torch.manual_seed(0)
            torch.save({"state_dict": build_model(read_config(config, OPTIONS[config])).state_dict()}, path)
        return path

    return save


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "out"
    model = build_model(read_config(DETECTOR, OPTIONS[DETECTOR]), str(weights(DETECTOR)))
    export(model, Wish("torch-export", [(160, 160)], batch=2), folder)
    return folder


def run(config, checkpoint, *args):
    options = [f"{key}={value}" for key, value in OPTIONS[config].items()]
    return main(["predict", config, *map(str, [checkpoint, *args]), *(["--cfg-options", *options] if options else [])])


def refused(capsys, *args):
    with pytest.raises(SystemExit) as ended:
        run(*args)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.splitlines()[-1]


def expected(config, checkpoint, scenes):
    """Of the two held-out pictures that come first."""
    cfg = read_config(config, {**OPTIONS[config], "test_dataloader.dataset.data_root": f"{scenes}/"})
    model = build_model(cfg, str(checkpoint))
    with torch.no_grad():
        return [predict(model, prepare_batch(model, [picture]))[0] for picture in read_pictures(cfg, 2)]


def first_two(scenes):
    return sorted((scenes / "val" / "images").iterdir())[:2]


@pytest.mark.parametrize("runtime", [False, True])
def test_a_detector(runtime, weights, exported, scenes, tmp_path, capsys):
    checkpoint, pictures = weights(DETECTOR), sorted((scenes / "val" / "images").iterdir())[:3]
    more = ["--runtime", exported] if runtime else []  # a batch of two and one of one
    assert run(DETECTOR, checkpoint, *pictures, "--score-thr", "0", "--out", tmp_path / "out", *more) == 0
    assert f"3 pictures in {tmp_path / 'out'}" in capsys.readouterr().out
    for path, wanted in zip(pictures, expected(DETECTOR, checkpoint, scenes), strict=False):
        found = json.loads((tmp_path / "out" / "preds" / f"{path.stem}.json").read_text())
        assert found.keys() == {"labels", "scores", "bboxes"} and len(found["labels"]) == 7
        assert found["labels"] == wanted.pred_instances.labels.tolist()
        np.testing.assert_allclose(found["scores"], wanted.pred_instances.scores, rtol=1e-4)
        np.testing.assert_allclose(found["bboxes"], wanted.pred_instances.bboxes, rtol=1e-4, atol=1e-3)
        before, drawn = cv2.imread(str(path)), cv2.imread(str(tmp_path / "out" / "vis" / f"{path.stem}.png"))
        assert drawn.shape == before.shape and 0 < (drawn != before).mean() < 1
    page = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["file_name"] for image in page["images"]] == [path.stem for path in pictures]
    assert [category["name"] for category in page["categories"]] == list(CLASSES) and len(page["annotations"]) == 21
    x1, y1, x2, y2 = found["bboxes"][0]
    second = page["annotations"][7]  # of the second picture, which was looked at last
    assert second["image_id"] == 2 and second["bbox"] == [x1, y1, x2 - x1, y2 - y1]
    assert (second["category_id"] - 1, second["score"]) == (found["labels"][0], found["scores"][0])
    assert {path.name for path in (tmp_path / "out").rglob("*.*")} == {
        "made_by.json", "predictions.json",
        *(f"{path.stem}{suffix}" for path in pictures for suffix in (".json", ".png")),
    }  # fmt: skip


def test_a_segmenter(weights, scenes, tmp_path):
    checkpoint = weights(SEGMENTER)
    assert run(SEGMENTER, checkpoint, scenes / "val" / "images", "--out", tmp_path) == 0
    assert len(list((tmp_path / "vis").iterdir())) == len(list((tmp_path / "preds").iterdir())) == 4
    for path, wanted in zip(first_two(scenes), expected(SEGMENTER, checkpoint, scenes), strict=True):
        found = cv2.imread(str(tmp_path / "preds" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, wanted.pred_sem_seg.data[0])


def test_a_classifier(weights, scenes, tmp_path):
    checkpoint, (picture, _) = weights(CLASSIFIER), first_two(scenes)
    assert run(CLASSIFIER, checkpoint, picture, "--out", tmp_path) == 0
    found = json.loads((tmp_path / "preds" / f"{picture.stem}.json").read_text())
    scores = np.array(found["pred_scores"])
    assert scores.shape == (1000,) and scores.sum() == pytest.approx(1, abs=1e-5)
    assert found["pred_label"] == scores.argmax() and found["pred_score"] == pytest.approx(scores.max())
    assert found["pred_class"] == meta_of(read_config(CLASSIFIER))["classes"][found["pred_label"]]
    assert (tmp_path / "vis" / f"{picture.stem}.png").is_file()


def test_what_is_there_is_not_made_again(weights, scenes, tmp_path, capsys):
    checkpoint, pictures = weights(DETECTOR), first_two(scenes)
    assert run(DETECTOR, checkpoint, pictures[0], "--no-save-vis", "--out", tmp_path) == 0
    assert not (tmp_path / "vis").exists()
    (result,) = (tmp_path / "preds").iterdir()
    kept = json.dumps(dict(labels=[], scores=[], bboxes=[]))
    result.write_text(kept)
    assert run(DETECTOR, checkpoint, *pictures, "--no-save-vis", "--out", tmp_path) == 0
    assert result.read_text() == kept and len(list((tmp_path / "preds").iterdir())) == 2
    args = (DETECTOR, checkpoint, *pictures, "--out", tmp_path, "--keep-ratio", "0.75")
    assert f"`out`: '{tmp_path}' holds predictions of another keep_ratio. Choose another" in refused(capsys, *args)


def test_a_picture_that_cannot_be_read_stops_no_other(weights, scenes, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "0.png").write_text("no picture")
    (tmp_path / "in" / "1.png").write_bytes(first_two(scenes)[0].read_bytes())
    args = (DETECTOR, weights(DETECTOR), tmp_path / "in", "--out", tmp_path / "out")
    line = refused(capsys, *args)
    assert line.endswith(f"1 of 2 cannot be used, such as {tmp_path / 'in' / '0.png'} (it cannot be decoded)")
    assert [path.name for path in (tmp_path / "out" / "preds").iterdir()] == ["1.json"]


def test_a_picture_that_cannot_be_prepared_stops_no_other(weights, exported, scenes, tmp_path, capsys):
    """Of a batch of two the other one is done."""
    good, wide = first_two(scenes)[0], tmp_path / "wide.png"
    cv2.imwrite(str(wide), np.zeros((8, 20000, 3), np.uint8))
    line = refused(capsys, DETECTOR, weights(DETECTOR), wide, good, "--runtime", exported, "--out", tmp_path / "out")
    assert f"1 of 2 cannot be used, such as {wide} (error: OpenCV" in line and "resize" in line
    assert [path.name for path in (tmp_path / "out" / "preds").iterdir()] == [f"{good.stem}.json"]
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((1, 1, 3), np.uint8))
    args = (SEGMENTER, weights(SEGMENTER), tmp_path / "one.png", "--out", tmp_path / "seg")
    assert "(IndexError: " in refused(capsys, *args)  # mmseg's visualizer
    assert run(*args, "--no-save-vis") == 0


def test_each_process_takes_its_share(weights, scenes, tmp_path, capsys, monkeypatch):
    args = (DETECTOR, weights(DETECTOR), scenes / "val" / "images", "--no-save-vis", "--out", tmp_path)
    names = [path.stem for path in sorted((scenes / "val" / "images").iterdir())]

    def there():
        return sorted(path.stem for path in (tmp_path / "preds").iterdir())

    assert run(*args, "--shard", "1/3") == 0 and there() == names[1::3]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert run(*args) == 0 and there() == sorted([*names[0::3], *names[1::3]])
    assert not (tmp_path / "predictions.json").exists()
    assert run(*args, "--shard", "2/3") == 0 and there() == names
    assert len(json.loads((tmp_path / "predictions.json").read_text())["images"]) == 4
    assert "`--shard` to be I/N with I from 0 to N - 1, such as 0/4, but got '3/3'" in refused(
        capsys, *args, "--shard", "3/3"
    )


def test_frames_of_a_video_are_pictures(weights, scenes, tmp_path, capsys):
    images = [cv2.imread(str(path)) for path in sorted((scenes / "val" / "images").iterdir())[:3]]
    size = images[0].shape[1::-1]
    writer = cv2.VideoWriter(str(tmp_path / "walk.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, size)
    for image in images:
        writer.write(image)
    writer.release()
    checkpoint, out = weights(SEGMENTER), tmp_path / "out"
    assert (
        run(SEGMENTER, checkpoint, tmp_path / "walk.avi", "--out", out, "--shard", "1/2") == 0
    )  # not from its beginning
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.png")) == [
        "preds/walk/000001.png",
        "vis/walk/000001.png",
    ]
    capture = cv2.VideoCapture(str(tmp_path / "walk.avi"))
    frame = [capture.read()[1] for _ in range(3)][1]
    cv2.imwrite(str(tmp_path / "frame.png"), frame)
    assert run(SEGMENTER, checkpoint, tmp_path / "frame.png", "--out", tmp_path / "alone") == 0
    maps = [
        cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for path in (out / "preds/walk/000001.png", tmp_path / "alone/preds/frame.png")
    ]
    np.testing.assert_array_equal(*maps)
    (tmp_path / "none.mp4").write_text("no video")
    line = refused(capsys, SEGMENTER, checkpoint, tmp_path / "none.mp4", "--out", tmp_path / "none")
    assert line.endswith(f"Argument `pictures`: {tmp_path / 'none.mp4'} cannot be read as a video")


def test_what_is_refused(weights, exported, scenes, tmp_path, capsys, monkeypatch):
    checkpoint, picture = weights(DETECTOR), first_two(scenes)[0]
    out = ("--out", tmp_path / "out")
    torch.save({"state_dict": {"conv.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    assert "does not fit this model: " in refused(capsys, DETECTOR, tmp_path / "other.pth", picture, *out)
    line = refused(capsys, DETECTOR, checkpoint, picture, *out, "--runtime", tmp_path)
    assert f"Argument `runtime`: '{tmp_path}' holds no exported network" in line
    line = refused(capsys, DETECTOR, checkpoint, picture, *out, "--runtime", exported, "--keep-ratio", "0.5")
    assert "--keep-ratio has no effect on an exported network" in line
    line = refused(capsys, SEGMENTER, weights(SEGMENTER), picture, *out, "--runtime", exported)
    assert "holds a detector, but the config builds a segmenter" in line
    assert not (tmp_path / "out").exists()
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((96, 320, 3), np.uint8))
    monkeypatch.setitem(OPTIONS[DETECTOR], "test_dataloader.dataset.pipeline.1.scale", "(320,96)")
    line = refused(capsys, DETECTOR, checkpoint, tmp_path / "wide.png", *out, "--runtime", exported)
    assert f"`pictures`: {tmp_path / 'wide.png'}: The network was exported for pictures of 160x160, but got" in line
    monkeypatch.setattr(type(FORMATS["torch-export"]), "needs", ["no_such_runtime"])
    line = refused(capsys, DETECTOR, checkpoint, picture, "--out", tmp_path / "more", "--runtime", exported)
    assert "TorchExport needs no_such_runtime, not installed here" in line


def test_which_pictures_are_meant(tmp_path):
    for name in ("a/1.png", "a/deep/1.JPG", "a/text.txt", "b/1.png", "b/2.webp", "a/out/vis/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")

    def found(*names):
        pictures = find_pictures([str(tmp_path / name) for name in names], tmp_path / "a" / "out")
        return {name: str(path.relative_to(tmp_path)) for name, path in pictures.items()}

    assert found("a") == {"1": "a/1.png", "deep/1": "a/deep/1.JPG"}
    assert found("b/*", "a/text.txt") == {"1": "b/1.png", "2": "b/2.webp", "text": "a/text.txt"}
    assert found("b/1.png", "b") == {"1": "b/1.png", "2": "b/2.webp"}
    with pytest.raises(ValueError, match="a/1.png and .*b/1.png would have the same name, '1'. Give the folder"):
        found("a/1.png", "b")
    for nothing in ("none", "b/*.jpg", "a/out"):
        with pytest.raises(FileNotFoundError, match=f"there is no picture at '.*{nothing[-3:]}'"):
            found(nothing)


def test_classes_are_known_from_the_config_alone():
    assert tuple(meta_of(read_config(DETECTOR))["classes"]) == tuple(CLASSES)
    assert len(meta_of(read_config(CLASSIFIER))["classes"]) == 1000
