"""Shares of the work, files and data sets, for whatever Hypothesis thinks of."""

import contextlib
import io
import json
import math
import re
import tempfile
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from drawn import SEEDS, flags, one_in
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

from mmsparse import files
from mmsparse.cli.commands import predict
from mmsparse.cli.launch import share_of
from mmsparse.datasets.board_style import MARGIN, STYLES
from mmsparse.datasets.boards import render_board
from mmsparse.datasets.pictures import SPLITS, Picture, picture_seed
from mmsparse.datasets.scenes import render_scene
from mmsparse.datasets.writer import DatasetArgs, instances_file, run_lengths, write_dataset
from mmsparse.engine import latest_checkpoint
from mmsparse.engine.seed_hook import SeedHook

NUMBERS = st.integers(0, 12).map(str) | st.sampled_from(["", "-1", "+1", " 1", "1.0", "one", "1/2"])


@contextlib.contextmanager
def started_by(**environment):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"):
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


@given(NUMBERS, NUMBERS)
def test_a_share_is_one_of_so_many_or_refused(number, total):
    fits = re.fullmatch(r"\d+", number) and re.fullmatch(r"\d+", total) and int(number) < int(total)
    ways = [
        (f"{number}/{total}", {}),
        (None, dict(RANK=number, WORLD_SIZE=total)),
        (None, dict(SLURM_PROCID=number, SLURM_STEP_NUM_TASKS=total)),
        (f"{number}/{total}", dict(RANK="0", WORLD_SIZE="1")),
    ]
    for shard, environment in ways:
        with started_by(**environment):
            if fits:
                assert share_of(shard) == (int(number), int(total))
            elif shard or number:
                with pytest.raises(ValueError, match="`--shard` to be I/N"):
                    share_of(shard)


@given(st.integers(0, 40), st.integers(1, 12))
def test_shares_of_pictures_are_disjoint_and_all(number, shares):
    pictures, taken = {f"{place:03d}": Path(f"{place:03d}.png") for place in range(number)}, []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch, started_by():
        for name in ("open_config", "check_predictable", "build_model", "_made_by", "_claim", "inferencer_of"):
            patch.setattr(predict, name, lambda *_, **__: SimpleNamespace(default_scope="mmseg"))
        patch.setattr(predict, "build_model", lambda *_: None)
        patch.setattr(predict, "find_pictures", lambda *_, **__: pictures)
        patch.setattr(predict, "_predict", lambda _, jobs, size: taken.append(list(jobs)) or {})
        given_all = dict(config="c.py", checkpoint="c.pth", pictures=[], out=Path(folder), score_thr=0.3, draw=False)
        given_all |= dict(runtime=None, keep_ratio=None, trust_checkpoint=False, cfg_options=None)
        for share in range(shares):
            predict.run(Namespace(shard=f"{share}/{shares}", **given_all))
    assert sorted(job.picture for jobs in taken for job in jobs) == sorted(pictures.values())
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


STEPS = ["open", "os.fsync", "Path.replace", None]


@given(st.none() | st.binary(max_size=40), st.binary(max_size=40) | st.text(max_size=20), st.sampled_from(STEPS))
def test_a_file_is_there_whole_or_as_it_was(before, data, fails):
    """Whatever is the step at which its process is interrupted; and nothing else is left."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "deeper" / "file"
        if before is not None:
            files.write_whole(before, path)
        if fails is None:
            files.write_whole(data, path)
        else:
            patch.setattr(f"mmsparse.files.{fails}", interrupted, raising=False)
            with pytest.raises(KeyboardInterrupt):
                files.write_whole(data, path)
            patch.undo()
        expected = (data.encode() if isinstance(data, str) else data) if fails is None else before
        assert [each.name for each in path.parent.iterdir()] == ["file"] * (expected is not None)
        assert expected is None or path.read_bytes() == expected


def saved():
    content = io.BytesIO()
    torch.save({"weight": torch.arange(64.0)}, content)
    return content.getvalue()


WHOLE = saved()
LENGTHS = st.just(len(WHOLE)) | st.integers(0, len(WHOLE) - 1)


@st.composite
def checkpoints(draw):
    """Lengths by their numbers, and what is said to be the last."""
    numbers = draw(st.sets(st.integers(0, 12) | st.integers(90, 120), max_size=5))
    note = (
        st.none() | st.integers(0, 120) | st.sampled_from(["", "elsewhere/epoch_3.pth", "last one", *numbers, *numbers])
    )
    return {number: draw(LENGTHS) for number in numbers}, draw(note)


@given(checkpoints(), st.sampled_from(["iter", "epoch"]), st.sampled_from(["", "\n"]))
def test_the_checkpoint_to_go_on_from_is_whole(found, unit, end):
    """The named one, or the newest, by its number; or none."""
    there, note = found
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, length in there.items():
            (folder / f"{unit}_{number}.pth").write_bytes(WHOLE[:length])
        for other in (f"best_mAP_{unit}_999.pth", f"{unit}_998.pth.part", "weights.pth"):
            (folder / other).write_bytes(WHOLE)
        if note is not None:
            named = folder / (f"{unit}_{note}.pth" if isinstance(note, int) else note) if note != "" else ""
            (folder / "last_checkpoint").write_text(f"{named}{end}")
        whole = [number for number, length in there.items() if length == len(WHOLE)]
        best = note if note in whole else max(whole, default=None)
        assert latest_checkpoint(folder) == (None if best is None else str(folder / f"{unit}_{best}.pth"))


@given(SEEDS, st.integers(0, 10**6), st.integers(0, 50), st.integers(1, 10**6))
def test_draws_depend_on_the_seed_the_iteration_and_the_process_alone(seed, iteration, before, other):
    def drawn(seed, iteration, rank=0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mmsparse.engine.seed_hook.get_rank", lambda: rank)
            SeedHook(seed).before_train_iter(SimpleNamespace(iter=iteration), before)
        return torch.rand(8)

    first = drawn(seed, iteration)
    torch.rand(before)
    assert torch.equal(drawn(seed, iteration), first)
    for others in ((seed + other, iteration), (seed, iteration + other), (seed, iteration, other)):
        assert not torch.equal(drawn(*others), first)


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda size: st.tuples(st.just(size), flags(math.prod(size)))
    )
)
def test_run_lengths_are_read_as_the_mask_they_are_of(drawn):
    size, bits = drawn
    mask = bits.view(size).numpy()
    written = run_lengths(mask)
    assert sum(written["counts"]) == mask.size and all(written["counts"][1:])
    assert np.array_equal(coco_masks.decode(coco_masks.frPyObjects(json.loads(json.dumps(written)), *size)), mask)


@one_in(5)
@given(st.integers(0, 2**31), st.sampled_from(SPLITS), st.integers(0, 99), st.sampled_from(list(STYLES)), st.booleans())
def test_a_board_depends_on_its_arguments_alone_and_defects_change_nothing_else(seed, split, index, style, colour):
    board, clean, again = (render_board(seed, split, index, 128, defects, colour, style) for defects in (1.0, 0.0, 1.0))
    for one, other in ((board.image, again.image), (board.labels, again.labels), (board.copper, again.copper)):
        assert np.array_equal(one, other)
    assert [defect.bbox for defect in board.defects] == [defect.bbox for defect in again.defects]
    near = np.zeros_like(board.copper)
    for defect in board.defects:
        x, y, w, h = defect.bbox
        near[max(y - MARGIN, 0) : y + h + MARGIN, max(x - MARGIN, 0) : x + w + MARGIN] = True
    assert np.array_equal(board.copper[~near], clean.copper[~near])
    assert (board.labels[~near] == 1).all() and (clean.labels == 1).all()


@one_in(3)
@given(st.integers(0, 2**31), st.sampled_from(SPLITS), st.integers(0, 99))
def test_a_scene_depends_on_its_arguments_alone(seed, split, index):
    scene, other, again = (render_scene(seed, split, number, 64) for number in (index, index + 1, index))
    assert np.array_equal(scene.image, again.image) and np.array_equal(scene.labels, again.labels)
    assert not np.array_equal(scene.image, other.image)
    assert not np.array_equal(scene.image, render_scene(seed + 1, split, index, 64).image)


@dataclass(frozen=True)
class Dots(DatasetArgs):
    name: ClassVar[str] = "dots"
    format_version: ClassVar[int] = 1
    categories: ClassVar[dict[str, str]] = dict(dot="mark")

    def render(self, split, index):
        draw = np.random.default_rng(picture_seed(self.seed, split, index))
        image, labels = draw.integers(0, 255, (2, self.size, self.size), dtype=np.uint8)
        return Picture(image, labels, [dict(category_id=1, area=int(image.sum()))] * (index % 3))


def all_files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@one_in(5)
@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 99),
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=4),
)
def test_a_data_set_that_is_written_with_interruptions_has_the_same_bytes(images, val, seed, stops):
    args = Dots(images=images, size=8, seed=seed, val=val)
    with tempfile.TemporaryDirectory() as name:
        whole, broken = Path(name) / "whole", Path(name) / "broken"
        assert write_dataset(whole, args, progress=False)
        for pictures, torn in stops:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Dots, "render", until(pictures, Dots.render))
                try:
                    write_dataset(broken, args, progress=False)
                except KeyboardInterrupt:
                    assert not (broken / "dots.json").exists()
                    if torn:
                        with open(broken / "annotations" / "train.jsonl", "a") as lines:
                            lines.write('[{"category_')
        write_dataset(broken, args, progress=False)
        assert all_files(broken) == all_files(whole)
        assert not write_dataset(broken, args, progress=False)


def until(pictures, render):
    """Makes so many pictures, and is interrupted."""
    made = []

    def interrupted(*args):
        if len(made) == pictures:
            raise KeyboardInterrupt
        made.append(args)
        return render(*args)

    return interrupted


@given(st.lists(st.lists(st.just({"category_id": 1}), max_size=3), max_size=4))
def test_annotations_are_numbered_from_one_and_belong_to_their_pictures(records):
    page = instances_file(Dots, records, 8)
    assert [each["id"] for each in page["annotations"]] == list(range(1, sum(map(len, records)) + 1))
    assert [each["image_id"] for each in page["annotations"]] == [
        index for index, record in enumerate(records) for _ in record
    ]
    assert [each["file_name"] for each in page["images"]] == [f"{index:06d}.jpg" for index in range(len(records))]
