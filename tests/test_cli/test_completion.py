"""What a shell completes."""

import subprocess
import sys

import pytest

from mmsparse.cli.main import command_files, main


def test_commands_and_their_options_are_completed(capsys, tmp_path):
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "mmsparse"
    script.write_text(capsys.readouterr().out)

    def completed(*words: str) -> set[str]:
        ask = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_mmsparse; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", f"source {script}; {ask}"], capture_output=True, text=True)
        return set(done.stdout.split())

    assert completed("mmsparse", "''") >= command_files().keys()
    assert completed("mmsparse", "predict", "--sh") == {"--shard"}


def test_what_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit):
        main(["completion", "zsh"])
    assert capsys.readouterr().err.endswith("completion needs the package shtab: pip install shtab\n")
