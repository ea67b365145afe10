"""The console command: its sub-commands are the tools, and are imported when they are called."""

import importlib
import runpy
import subprocess
import sys
import tomllib

import pytest
from commands import run_tool
from scenes import ROOT

from mmsparse.cli import main as porch
from mmsparse.cli.main import FOLDER, main

DEMO = "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py"
TOOLS = {
    "app": "app",
    "benchmark": "analysis_tools/benchmark",
    "boards": "dataset_converters/make_boards",
    "calibrate": "analysis_tools/calibrate",
    "choice": "analysis_tools/choice",
    "curve": "analysis_tools/curve",
    "convert-data": "dataset_converters/convert_data",
    "convert-dense": "model_converters/dense_to_mmsparse",
    "convert-dynamicvit": "model_converters/dynamicvit_to_mmsparse",
    "export": "export",
    "flops": "analysis_tools/get_flops",
    "keep-maps": "analysis_tools/keep_maps",
    "predict": "predict",
    "publish": "model_converters/publish_model",
    "scenes": "dataset_converters/make_scenes",
    "sparsify": "misc/sparsify_config",
    "test": "test",
    "train": "train",
}
STUDIES = {
    f"misc/{name}" for name in ("calibrate_study", "check_stock_configs", "study", "training_cost", "versions")
}  # of this repository
STUDIES |= {"analysis_tools/device_report", "demo", "misc/stock_pictures"}


def test_every_tool_is_a_sub_command_or_a_study():
    tools = {str(path.relative_to(ROOT / "tools").with_suffix("")) for path in (ROOT / "tools").rglob("*.py")}
    assert tools == {*TOOLS.values(), *STUDIES}
    assert {path.stem.replace("_", "-") for path in FOLDER.glob("[!_]*.py")} == {*TOOLS, "completion", "config", "env"}


def test_the_installed_command_is_this_one():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"mmsparse": "mmsparse.cli.main:main"}


@pytest.fixture
def parsed(monkeypatch):
    """The options of whatever reads its command line, which is as far as it gets."""
    found = []

    class Stopped(porch.Parser):
        def parse_args(self, *args):
            keys = ("option_strings", "dest", "nargs", "default", "type", "choices", "required", "help")
            options = [tuple(getattr(action, key) for key in keys) for action in self._actions]
            found.append((self.prog, self.description, options))
            raise SystemExit(0)

    monkeypatch.setattr(porch, "Parser", Stopped)

    def parse(start):
        with pytest.raises(SystemExit):
            start()
        return found.pop()

    return parse


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_takes_what_its_sub_command_takes(name, parsed):
    prog, *tool = parsed(lambda: runpy.run_path(f"{ROOT}/tools/{TOOLS[name]}.py", run_name="__main__"))
    assert prog == f"{TOOLS[name].rpartition('/')[2]}.py"
    assert tool == list(parsed(lambda: porch.run_command(name, f"mmsparse {name}", []))[1:])
    assert len(tool[1]) > 2  # --help is the first


@pytest.mark.parametrize("name", [*TOOLS, "config", "env"])
def test_help_says_what_it_does(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    description = importlib.import_module(f"mmsparse.cli.commands.{name.replace('-', '_')}").__doc__
    assert told.startswith(f"usage: mmsparse {name} ")
    assert "".join(description.split()) in "".join(told.split())  # lines break at hyphens, too
    with pytest.raises(SystemExit):
        main(["--help"])
    assert f"  {name:<18}  {description.splitlines()[0]}\n" in capsys.readouterr().out


QUICK = """
import sys
from mmsparse.cli.main import main
for argv in (["--help"], ["trian"], ["scenes", "--help"], ["--version"]):
    try:
        main(argv)
    except SystemExit as ended:
        print(argv, ended.code)
print("imported:", *sorted({"torch", "mmengine", "mmdet"} & sys.modules.keys()))
"""


def test_libraries_are_not_imported_before_they_are_needed():
    done = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {"['--help'] 0", "['trian'] 2", "['scenes', '--help'] 0", "['--version'] 0"} <= set(lines)
    assert lines[-1] == "imported:"


@pytest.mark.parametrize(
    "argv, sentence",
    [
        (["trian"], "mmsparse: error: there is no command 'trian'; the nearest is `mmsparse train`. mmsparse --help"),
        (["get_flops"], "mmsparse: error: there is no command 'get_flops'; the nearest is `mmsparse flops`. "),
        ([], "mmsparse: error: the following arguments are required: COMMAND. mmsparse --help"),
        (["--halp"], "mmsparse: error: the following arguments are required: COMMAND. mmsparse --help"),
        (["train"], "mmsparse train: error: the following arguments are required: config. mmsparse train --help"),
        (["train", DEMO, "--wrok-dir", "x"], "mmsparse train: error: unrecognized arguments: --wrok-dir x. mmsparse t"),
        (["flops", DEMO, "--macs", "few"], "mmsparse flops: error: argument --macs: invalid float value: 'few'. "),
        (["flops", DEMO, "--cfg-options", "a"], "mmsparse flops: error: argument --cfg-options: expected key=value, b"),
        (["test", "none.py", "none.pth"], "mmsparse test: error: Expected argument `config` to be a config file"),
    ],
)
def test_a_mistake_is_one_sentence(argv, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert err.startswith(sentence) and err.count("\n") == 1 and out == ""


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "mmsparse", "trian"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("mmsparse: error: there is no command")


@pytest.mark.parametrize("name", ["train", "misc/study", "demo"])
def test_a_wrong_option_of_a_script_is_one_sentence(name):
    code, out, err = run_tool(name, *([DEMO] if name != "demo" else []), "--wrok-dir", "x")
    file = f"{name.rpartition('/')[2]}.py"
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == f"{file}: error: unrecognized arguments: --wrok-dir x. {file} --help says more"
    assert "usage" not in err


def test_a_sub_command_does_what_its_tool_does(capsys):
    args = [DEMO, "--shape", "96", "96", "--keep-ratio", "0.5"]
    assert main(["flops", *args]) == 0
    told = capsys.readouterr().out
    code, out, _ = run_tool("analysis_tools/get_flops", *args)
    assert code == 0 and "mean over a random 96x96 picture" in told
    assert told == out
