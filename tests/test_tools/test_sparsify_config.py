"""`tools/misc/sparsify_config.py` as a user runs it."""

import re
import runpy

import pytest
from commands import run_tool
from dense_configs import STOCK
from mmengine.config import Config
from mmengine.hub import get_config
from scenes import ROOT

import mmsparse


def test_the_tool_writes_a_file_that_stands_alone_and_says_what_changed(tmp_path):
    out = tmp_path / "new" / "dynamic.py"
    options = ["--keep-ratio", "0.8", "--teacher", "twin"]
    code, printed, _ = run_tool("misc/sparsify_config", STOCK["swin-det"], out, *options)
    assert code == 0
    assert "model.backbone.type: 'SwinTransformer' -> 'mmsparse.DynamicSwin'" in printed
    assert "model.backbone.sparsity.keep_ratio: 'absent' -> 0.8" in printed
    written = Config.fromfile(out)
    assert written.to_dict() == mmsparse.sparsify(get_config(STOCK["swin-det"]), 0.8, teacher="twin").to_dict()
    assert written.env_cfg.dist_cfg.backend == "nccl" and "_base_" not in out.read_text()  # not fitted to this machine
    before = out.read_text()
    code, _, error = run_tool("misc/sparsify_config", STOCK["swin-det"], out)
    assert code == 2 and "is there already. Name another file, or add --overwrite" in error.splitlines()[-1]
    assert out.read_text() == before


def run_in_process(monkeypatch, *args):
    monkeypatch.setattr("sys.argv", ["sparsify_config.py", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "tools/misc/sparsify_config.py"), run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize(
    "config, sentence",
    [
        ("mmdet::pvt/retinanet_pvt-t_fpn_1x_coco.py", "model.backbone is mmdet.PyramidVisionTransformer"),
        ("nowhere.py", "`IN` to be a config file or lib::path, but got 'nowhere.py'"),
        ("mmdet::swin/nowhere.py", "mmdet::swin/nowhere.py"),
    ],
)
def test_the_tool_refuses_in_one_sentence(config, sentence, tmp_path, monkeypatch, capsys):
    out = tmp_path / "dynamic.py"
    assert run_in_process(monkeypatch, config, out) == 2 and not out.exists()
    (_line,) = [text for text in capsys.readouterr().err.splitlines() if sentence in text]


def test_the_tool_takes_dotted_keys(tmp_path, monkeypatch):
    out = tmp_path / "dynamic.py"
    pairs = ["scorer.type=MLPScorer", "scorer.hidden=8", "selector.type=GumbelSelector",
             "fast_path.type=LinearFastPath", "explore=0.5", "places=[(0,1),(2,1)]"]  # fmt: skip
    assert run_in_process(monkeypatch, STOCK["swin-det"], out, "--sparsity", *pairs) == 0
    assert Config.fromfile(out).model.backbone.sparsity == dict(
        keep_ratio=0.7,
        scorer=dict(type="MLPScorer", hidden=8),
        selector=dict(type="GumbelSelector"),
        fast_path=dict(type="LinearFastPath"),
        explore=0.5,
        places=[(0, 1), (2, 1)],
    )


@pytest.mark.parametrize(
    "name, options, sentence",
    [
        ("swin-det", ["--keep-ratio", "1.5"], r"`--keep-ratio` to be in \(0, 1\], but got 1.5"),
        ("swin-det", ["--keep-ratio", "0.3"], "`--keep-ratio`=0.3 leaves -0.1"),
        ("swin-det", ["--keep-ratio", "0.7", "0.5", "--neck"], r"`--keep-ratio` to be one number"),
        ("swin-det", ["--sparsity", "keep_ratio=0.5"], "Give the argument `--keep-ratio` instead"),
        ("swin-det", ["--sparsity", "scorer.type=NoScorer"], "but got 'NoScorer'"),
        ("swin-seg", ["--neck"], "argument `--neck`: the model has no neck. Supported are mmdet.FPN"),
    ],
)
def test_the_tool_names_its_flags(name, options, sentence, tmp_path, monkeypatch, capsys):
    out = tmp_path / "dynamic.py"
    assert run_in_process(monkeypatch, STOCK[name], out, *options) == 2
    printed = capsys.readouterr().err.splitlines()
    assert re.search(sentence, printed[-1]) and not out.exists()
