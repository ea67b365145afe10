"""Checkpoint files, and the names under which an installed config is found."""

import pytest
import torch
from torch import nn

from mmsparse import compat
from mmsparse.checkpoints import load_weights, read_checkpoint, weights_of


class Renamed(nn.Linear):
    """A layer whose weight had another name in its first version, as some of mmcv's."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *args):
        if metadata.get("version", 1) < 2:
            state[f"{prefix}weight"] = state[f"{prefix}weight"].neg()
        super()._load_from_state_dict(state, prefix, metadata, *args)


def test_weights_bring_the_versions_of_their_modules(tmp_path):
    trained, model = nn.Sequential(Renamed(2, 3)), nn.Sequential(Renamed(2, 3))
    torch.save(dict(state_dict=trained.state_dict()), tmp_path / "new.pth")
    load_weights(model, str(tmp_path / "new.pth"))
    assert torch.equal(model[0].weight, trained[0].weight)
    torch.save(dict(state_dict=dict(trained.state_dict())), tmp_path / "old.pth")
    load_weights(model, str(tmp_path / "old.pth"))
    assert torch.equal(model[0].weight, -trained[0].weight)


def test_weights_are_looked_for_where_it_is_said():
    one, other = torch.ones(1), torch.zeros(1)
    content = dict(model={"module.a": one, "epoch": 3}, b=other)
    assert weights_of(content) == {"b": other}
    assert weights_of(content, ("state_dict", "model")) == {"a": one}


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"`teacher` to be a file, but got '{tmp_path}', a folder$"):
        read_checkpoint(str(tmp_path), "teacher")


@pytest.mark.parametrize(
    "name",
    ["gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py", "legacy_1.x/faster-rcnn_r50_fpn_1x_coco_v1.py"],
)
def test_installed_configs_are_found_in_every_folder(name):
    assert compat.load_config(f"mmdet::{name}").model.type == "FasterRCNN"


def test_a_library_brings_weights_beside_its_configs(tmp_path, monkeypatch):
    folder = tmp_path / "brings" / ".mim" / "configs" / "boards"
    folder.mkdir(parents=True)
    (tmp_path / "brings" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    trained, model = nn.Linear(2, 3), nn.Linear(2, 3)
    torch.save(dict(state_dict=trained.state_dict()), folder / "half.pth")
    load_weights(model, "brings::boards/half.pth")
    assert torch.equal(model.weight, trained.weight)
    (folder / "half.pth").rename(folder / "net-0123abcd.pth")
    assert read_checkpoint("brings::boards/net").keys() == {"state_dict"}
    with pytest.raises(FileNotFoundError, match="`checkpoint` to be a file, but got 'brings::boards/other.pth'$"):
        read_checkpoint("brings::boards/other.pth")
    with pytest.raises(FileNotFoundError, match="but got 'absent::half.pth'$"):
        read_checkpoint("absent::half.pth")
