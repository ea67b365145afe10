"""Generated boards: the same bytes always, and each defect is what its name says of the conductors."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmsparse.cli.main import main
from mmsparse.datasets import boards_io
from mmsparse.datasets.board_defects import Defect
from mmsparse.datasets.board_style import CLEARANCE, MARGIN
from mmsparse.datasets.boards import CLASSES, PALETTE, SEG_CLASSES, Board, render_board
from mmsparse.datasets.boards_io import BoardsArgs
from mmsparse.datasets.writer import write_dataset

SIZE, COUNT = 512, 8
ARGS = BoardsArgs(images=4, size=128, seed=3, val=2, defects=0.5)


def pairs(style: str) -> list[tuple[Board, Board]]:
    """Boards with many defects, and the same ones without."""
    return [
        (render_board(0, "val", index, SIZE, 24, style=style), render_board(0, "val", index, SIZE, 0, style=style))
        for index in range(COUNT)
    ]


@pytest.fixture(scope="module", params=["plain", "aged"])
def boards(request: pytest.FixtureRequest) -> list[tuple[Board, Board]]:
    return pairs(request.param)


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pieces(mask: np.ndarray, connectivity: int = 8) -> int:
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity)[0] - 1


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)) > 0


def each_defect(boards: list[tuple[Board, Board]], name: str) -> list[tuple[np.ndarray, np.ndarray, Defect]]:
    """(conductors without any defect, the same with this one alone, defect)."""
    found = []
    for board, clean in boards:
        for defect in board.defects:
            if CLASSES[defect.category] == name:
                changed = np.zeros_like(clean.copper)
                changed[defect.window] = defect.mask
                found.append((clean.copper, clean.copper ^ changed, defect))
    assert len(found) > 10
    return found


def test_a_picture_depends_on_its_arguments_alone() -> None:
    first, second = render_board(0, "train", 4, SIZE), render_board(0, "train", 3, SIZE)
    again = render_board(0, "train", 4, SIZE)
    assert np.array_equal(again.image, first.image)
    assert np.array_equal(again.labels, first.labels)
    assert [d.bbox for d in again.defects] == [d.bbox for d in first.defects]
    others = [second, render_board(1, "train", 4, SIZE), render_board(0, "val", 4, SIZE)]
    assert all(not np.array_equal(other.image, first.image) for other in others)


def test_grey_or_colour_is_the_same_board() -> None:
    grey, colour = render_board(2, "train", 0, SIZE), render_board(2, "train", 0, SIZE, colour=True)
    assert grey.image.shape == (SIZE, SIZE)
    assert colour.image.shape == (SIZE, SIZE, 3)
    assert np.array_equal(grey.labels, colour.labels)
    assert colour.image.std(axis=2).mean() > 5


def test_names_and_colours_belong_together() -> None:
    assert SEG_CLASSES[1:] == CLASSES == ("open", "short", "mousebite", "spur", "copper", "pin-hole")
    assert len(PALETTE) == len(set(PALETTE)) == len(SEG_CLASSES)
    for task, classes, palette in (("detection", CLASSES, PALETTE[1:]), ("segmentation", SEG_CLASSES, PALETTE)):
        metainfo = Config.fromfile(f"configs/_base_/datasets/boards_{task}.py").metainfo
        assert metainfo.classes == classes
        assert list(map(tuple, metainfo.palette)) == list(palette)


def test_boxes_and_labels_are_those_of_what_changed(boards: list[tuple[Board, Board]]) -> None:
    for board, clean in boards:
        assert not clean.defects
        assert (clean.labels == 1).all()
        expected = np.ones((SIZE, SIZE), int)
        claimed = np.zeros((SIZE, SIZE), int)
        for defect in board.defects:
            ys, xs = np.nonzero(defect.mask)
            x, y, w, h = defect.bbox
            assert (xs.min(), ys.min(), w - 1 - xs.max(), h - 1 - ys.max()) == (MARGIN,) * 4
            assert min(x, y) >= 0
            assert max(x + w, y + h) <= SIZE
            assert min(w, h) >= 18
            assert max(w, h) <= 100
            expected[defect.window][defect.mask] = defect.category + 2
            claimed[defect.window] += 1
        assert claimed.max() == 1  # boxes keep apart
        assert np.array_equal(board.labels, expected)
        assert np.array_equal(board.labels > 1, board.copper != clean.copper)


def test_elsewhere_the_picture_is_that_of_the_board_without_defects(boards: list[tuple[Board, Board]]) -> None:
    for board, clean in boards:
        difference = cv2.absdiff(board.image, clean.image)
        inside = np.zeros((SIZE, SIZE), bool)
        for defect in board.defects:
            inside[defect.window] = True
            assert difference[defect.window][defect.mask].max() >= 4  # it can be seen
        assert difference[~inside].max() <= 3
        assert difference[~inside].mean() < 0.01


def test_open_splits_a_net(boards: list[tuple[Board, Board]]) -> None:
    for before, after, _ in each_defect(boards, "open"):
        assert pieces(after) == pieces(before) + 1


def test_short_joins_two_nets(boards: list[tuple[Board, Board]]) -> None:
    for before, after, _ in each_defect(boards, "short"):
        assert pieces(after) == pieces(before) - 1


@pytest.mark.parametrize(("name", "gain"), [("mousebite", -1), ("spur", 1)])
def test_bites_and_spurs_change_an_edge_and_no_net(name: str, gain: int, boards: list[tuple[Board, Board]]) -> None:
    for before, after, defect in each_defect(boards, name):
        assert pieces(after) == pieces(before)
        assert int(after.sum()) - int(before.sum()) == gain * defect.mask.sum()
        assert pieces(~after, 4) == pieces(~before, 4)  # no hole either


def test_an_island_touches_no_other_copper(boards: list[tuple[Board, Board]]) -> None:
    for before, after, _ in each_defect(boards, "copper"):
        assert not (before & grown(after & ~before, CLEARANCE)).any()
        assert pieces(after) == pieces(before) + 1


def test_a_pin_hole_is_enclosed_by_copper(boards: list[tuple[Board, Board]]) -> None:
    for before, after, _ in each_defect(boards, "pin-hole"):
        hole = before & ~after
        assert after[grown(hole, 2) & ~hole].all()
        assert pieces(after) == pieces(before)


def test_their_number_is_what_was_asked_for() -> None:
    counts = np.array([len(render_board(5, "train", index, 256, 1.5).defects) for index in range(120)])
    assert 1.2 < counts.mean() < 1.8
    assert 0.12 < (counts == 0).mean() < 0.35
    assert counts.max() > 3
    kinds = np.bincount([d.category for b, _ in pairs("plain") for d in b.defects], minlength=6)
    assert kinds.sum() > 0.8 * 24 * COUNT
    assert kinds.min() > 0.5 * kinds.mean()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 500}, "'size'.*multiple of 32 from 128 to 4096.*500"),
        ({"size": 8192}, "'size'.*from 128 to 4096.*8192"),
        ({"defects": -1}, "'defects'.*from 0 to 28.*-1$"),
        ({"defects": 200}, "'defects'.*from 0 to 28 for pictures of 512 pixels.*200: a 'size' of 1376 holds them"),
        ({"defects": 1e6}, "'defects'.*from 0 to 28.*1000000.0$"),
        ({"defects": float("nan")}, "'defects'.*from 0 to 28.*nan$"),
        ({"defects": float("inf")}, "'defects'.*from 0 to 28.*inf$"),
        ({"style": "new"}, "'style'.*plain.*aged.*'new'"),
        ({"split": "test"}, "'split'.*train.*val.*'test'"),
        ({"seed": -1}, "'seed'.*-1"),
        ({"index": -2}, "'index'.*-2"),
    ],
)
def test_wrong_arguments_are_named(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        render_board(**{"seed": 0, "split": "train", "index": 0, "size": SIZE, **change})


def test_an_interrupted_run_continues_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert write_dataset(tmp_path / "whole", ARGS, progress=False)
    rendered: list[tuple[str, int]] = []

    def failing(seed: int, split: str, index: int, *more: object) -> Board:
        rendered.append((split, index))
        if rendered.count(("train", 2)) == 1 and index == 2:
            raise KeyboardInterrupt
        return render_board(seed, split, index, *more)

    monkeypatch.setattr(boards_io, "render_board", failing)
    out = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        write_dataset(out, ARGS, progress=False)
    assert not (out / "boards.json").exists()
    assert write_dataset(out, ARGS, progress=False)
    assert rendered.count(("train", 1)) == 1
    assert all_files(out) == all_files(tmp_path / "whole")
    assert json.loads((out / "boards.json").read_text())["defects"] == 0.5


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "boards"
    command = ["boards", str(out), "--images", "2", "--size", "128", "--seed", "1", "--defects", "1"]

    def refused(argv: list[str]) -> str:
        with pytest.raises(SystemExit) as stop:
            main(argv)
        message = capsys.readouterr().err
        assert stop.value.code == 2
        assert message.count("\n") == 1
        return message

    assert main(command) == 0
    assert "Wrote 2 training and 1 held-out" in capsys.readouterr().out
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert "holds boards made with" in refused([*command, "--colour"])
    assert "holds no generated scenes" in refused(["scenes", *command[1:8]])
    assert main([*command, "--colour", "--style", "aged", "--overwrite"]) == 0
    assert cv2.imread(str(out / "train" / "images" / "000001.jpg"), cv2.IMREAD_UNCHANGED).shape == (128, 128, 3)
    capsys.readouterr()
    assert "a 'size' of 320 holds them" in refused([*command, "--defects", "10"])
    assert "multiple of 32" in refused([*command, "--size", "100"])


def test_stock_datasets_read_it(tmp_path: Path) -> None:
    det = pytest.importorskip("mmdet.datasets")
    seg = pytest.importorskip("mmseg.datasets")
    from mmengine.registry import DefaultScope

    args = BoardsArgs(images=6, size=640, seed=0, val=1)
    write_dataset(tmp_path, args, progress=False)
    expected = [render_board(0, "train", index, 640) for index in range(6)]
    base = "configs/_base_/datasets/boards_{}.py"
    with DefaultScope.overwrite_default_scope("mmdet"):
        cfg = Config.fromfile(base.format("detection")).train_dataloader.dataset
        crops = cfg.pop("pipeline")
        whole = [crops[0], dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]
        cfg.update(data_root=str(tmp_path))
        cfg.pop("type")
        detection = det.CocoDataset(**cfg, pipeline=whole)
        assert len(detection) == 6
        for index, board in enumerate(expected):
            sample = detection[index]
            assert sample["img"].shape == (640, 640, 3)
            assert sample["gt_bboxes_labels"].tolist() == [d.category for d in board.defects]
            boxes = sample["gt_bboxes"].tensor.tolist()
            assert boxes == [[x, y, x + w, y + h] for x, y, w, h in (d.bbox for d in board.defects)]
            for mask, defect in zip(sample["gt_masks"].masks, board.defects, strict=True):
                assert (mask[defect.window].astype(bool) ^ defect.mask).sum() <= 0.15 * defect.mask.sum() + 2
        assert det.CocoDataset(**cfg, pipeline=crops)[0]["inputs"].shape == (3, 256, 256)
    with DefaultScope.overwrite_default_scope("mmseg"):
        cfg = Config.fromfile(base.format("segmentation")).train_dataloader.dataset
        crops = cfg.pop("pipeline")
        cfg.update(data_root=str(tmp_path))
        cfg.pop("type")
        segmentation = seg.BaseSegDataset(**cfg, pipeline=crops[:2])
        for index, board in enumerate(expected):
            assert np.array_equal(segmentation[index]["gt_seg_map"], board.labels - 1)
        sample = seg.BaseSegDataset(**cfg, pipeline=crops)[0]
        assert sample["data_samples"].gt_sem_seg.data.shape == (1, 512, 512)
