"""Which errors a tool tells in a sentence, and which keep their traceback."""

import pytest
import torch
from dense_configs import STOCK, SWIN, stock
from mmdet.models.necks import FPN

from mmsparse import set_keep_ratio, sparsify
from mmsparse.checkpoints import check_checkpoint
from mmsparse.cli.mistakes import say_mistakes
from mmsparse.models import DynamicConvNeXt, DynamicFPN
from mmsparse.registry import build
from mmsparse.sparsity import Selector, TopKSelector
from mmsparse.sparsity.budget import num_keep
from projects.adavit import AdaViT
from projects.adavit.choices import Choice
from projects.sparsifiner import SparsifinerViT
from projects.sparsifiner.connectivity import ConnectivityPredictor


def test_what_our_checks_refuse_is_the_last_line_and_exit_status_2(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tools/train.py"])
    with pytest.raises(SystemExit) as stopped, say_mistakes():
        check_checkpoint("none.pth")
    assert stopped.value.code == 2
    assert (
        capsys.readouterr().err == "train.py: error: Expected argument `checkpoint` to be a file, but got 'none.pth'\n"
    )


def test_files_that_cannot_be_used_are_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stopped, say_mistakes():
        (tmp_path / "file" / "below").mkdir()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith(f"cannot read or write '{tmp_path}/file/below': Not a directory\n")


class Absent(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return open("pictures/1.jpg").read()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_is_missing_is_named_by_whichever_process_reads_it(workers, capsys):
    with pytest.raises(SystemExit) as stopped, say_mistakes():
        next(iter(torch.utils.data.DataLoader(Absent(), num_workers=workers)))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pictures/1.jpg" in line and "No such file or directory" in line and "Traceback" not in line
    assert line.endswith("Complete the data, or take its entry out of the annotations") == (workers == 1)


@pytest.mark.parametrize(
    "bug, kind",
    [
        (lambda: num_keep("half", 3), TypeError),  # of Python, inside a function of ours
        (lambda: torch.ones(2) + torch.ones(3), RuntimeError),
        (lambda: int("x"), ValueError),
        (lambda: [][0], IndexError),
        (lambda: set_keep_ratio(), TypeError),
    ],
)
def test_bugs_keep_their_traceback(bug, kind, capsys):
    with pytest.raises(kind), say_mistakes():
        bug()
    assert capsys.readouterr().err == ""


def test_what_goes_well_is_left_alone():
    with say_mistakes():
        assert num_keep(0.5, 4) == 2


def stumbling(self, *args, **kwargs):
    len(3)


def misreading(self, *args, **kwargs):
    int("x")


VIT = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=96)
MADE = {  # the class with the bug, and what builds one
    "part": (TopKSelector, lambda: build(dict(type="TopKSelector"), Selector, "selector")),
    "backbone": (TopKSelector, lambda: DynamicConvNeXt("atto", sparsity={})),
    "neck": (TopKSelector, lambda: DynamicFPN([8, 8, 8], 8, num_outs=3, sparsity={})),
    "connectivity": (ConnectivityPredictor, lambda: SparsifinerViT(VIT, connectivity={})),
    "policy": (Choice, lambda: AdaViT(VIT, policy={})),
    "sparsify": (TopKSelector, lambda: sparsify(SWIN)),
    "sparsify a neck": (FPN, lambda: sparsify(stock(STOCK["swin-det"]), neck=True)),
}


@pytest.mark.parametrize("bug, words", [(stumbling, "object of type 'int' has no len()"), (misreading, "invalid lit")])
@pytest.mark.parametrize("made", MADE)
def test_a_bug_in_a_constructor_keeps_its_words_and_its_traceback(made, bug, words, monkeypatch, capsys):
    cls, make = MADE[made]
    monkeypatch.setattr(cls, "__init__", bug)
    with pytest.raises((TypeError, ValueError)) as caught, say_mistakes():
        make()
    assert str(caught.value).startswith(words)
    assert caught.traceback[-1].name == bug.__name__ and capsys.readouterr().err == ""


CODE = """
def refuse(value):
    raise TypeError(f"expected a list, but got {value!r}")

def stumble(value):
    raise TypeError(f"expected a list of {len(value)}")
"""


@pytest.mark.parametrize("readable", [True, False])
def test_a_refusal_is_known_with_and_without_its_source(readable, tmp_path, capsys):
    if readable:
        (tmp_path / "code.py").write_text(CODE)
    module = {"__name__": "mmsparse.nowhere"}
    exec(compile(CODE, str(tmp_path / "code.py"), "exec"), module)
    with pytest.raises(SystemExit), say_mistakes():
        module["refuse"](3)
    assert capsys.readouterr().err.endswith("error: expected a list, but got 3\n")
    with pytest.raises(TypeError, match="has no len"), say_mistakes():
        module["stumble"](3)
