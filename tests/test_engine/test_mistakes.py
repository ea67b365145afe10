"""Which errors a tool tells in a sentence, and which keep their traceback."""

import pytest
import torch

from mmsparse import set_keep_ratio
from mmsparse.checkpoints import check_checkpoint
from mmsparse.engine.mistakes import say_mistakes
from mmsparse.sparsity.budget import num_keep


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
