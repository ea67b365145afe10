"""A training that ends at any moment leaves a checkpoint to go on from."""

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmsparse import files
from mmsparse.engine import WholeCheckpointHook, latest_checkpoint


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs, mode="tensor"):
        return dict(loss=self.layer(inputs).square().mean())


def train(folder, iters=4, **more):
    loader = dict(dataset=[dict(inputs=torch.ones(2))], batch_size=1, sampler=dict(type="InfiniteSampler"))
    Runner(
        Toy(),
        work_dir=str(folder),
        train_dataloader=dict(**loader, collate_fn=dict(type="default_collate")),
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=iters),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=1e-3)),
        default_hooks=dict(checkpoint=WholeCheckpointHook(interval=1, by_epoch=False, max_keep_ckpts=1)),
        experiment_name=f"{folder.name}{more}",
        visualizer=dict(type="Visualizer", name=f"{folder}{more}"),
        **more,
    ).train()


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".py")


def test_one_checkpoint_is_kept_and_it_is_whole(tmp_path):
    train(tmp_path)
    assert names(tmp_path) == ["iter_4.pth", "last_checkpoint"]
    assert torch.load(tmp_path / "iter_4.pth", weights_only=False)["meta"]["iter"] == 4
    assert latest_checkpoint(tmp_path) == str(tmp_path / "iter_4.pth")


def test_what_ends_while_it_writes_has_the_one_before(tmp_path, monkeypatch):
    flush, written = files.os.fsync, []

    def ends_at_the_third(file):
        written.append(file)
        if len(written) == 3:
            raise KeyboardInterrupt
        flush(file)

    monkeypatch.setattr(files.os, "fsync", ends_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert names(tmp_path) == ["iter_2.pth", "last_checkpoint"]
    assert torch.load(tmp_path / "iter_2.pth", weights_only=False)["meta"]["iter"] == 2
    train(tmp_path, load_from=latest_checkpoint(tmp_path), resume=True)
    assert names(tmp_path) == ["iter_4.pth", "last_checkpoint"]


@pytest.mark.parametrize("note", [None, "", "iter_9.pth", "iter_12.pth", "elsewhere/iter_10.pth"])
def test_the_newest_that_is_whole(tmp_path, note):
    """Half a checkpoint is none, whatever says that it is the last."""
    for number in (3, 9, 10):
        torch.save({}, tmp_path / f"iter_{number}.pth")
    content = (tmp_path / "iter_10.pth").read_bytes()
    (tmp_path / "iter_12.pth").write_bytes(content[: len(content) // 2])
    torch.save({}, tmp_path / "best_mAP_iter_11.pth")
    if note is not None:
        (tmp_path / "last_checkpoint").write_text(str(tmp_path / note) if note else "")
    expected = "iter_9.pth" if note == "iter_9.pth" else "iter_10.pth"
    assert latest_checkpoint(tmp_path) == str(tmp_path / expected)


def test_none(tmp_path):
    assert latest_checkpoint(tmp_path) is None and latest_checkpoint(tmp_path / "missing") is None
