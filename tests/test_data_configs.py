"""Configs as JSON and YAML: the same network as of the Python config, and nothing in them runs."""

import json

import pytest
import torch
from mmengine.config import Config
from scenes import ROOT, at

from mmsparse.cli.building import build_model
from mmsparse.cli.main import main
from mmsparse.configs import read_config, write_config
from mmsparse.data_configs import SUFFIXES

ROUTED = str(ROOT / "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py")
COCO = str(ROOT / "configs/dynamic_swin/mask-rcnn_dynamic-swin-t_k70_fpn_amp-ms-crop-3x_coco.py")
RUNS = "from pathlib import Path; Path({!r}).touch()"


def written(tmp_path, suffix, tree):
    """A file with the text of a tree, in JSON, which YAML is, too."""
    path = tmp_path / f"config{suffix}"
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_network_of_a_data_config_gives_the_same(suffix, tmp_path, capsys):
    out = tmp_path / "new" / f"config{suffix}"
    assert main(["config", ROUTED, str(out)]) == 0 and f"wrote {out}" in capsys.readouterr().out
    python, data = read_config(ROUTED), read_config(str(out))
    assert data.to_dict() == python.to_dict()
    state = build_model(python).state_dict()
    pictures, found = torch.rand(1, 3, 96, 96), []
    for cfg in (python, data):
        model = build_model(cfg)
        model.load_state_dict(state)
        with torch.no_grad():
            found.append([x for level in model(pictures, mode="tensor") for x in level])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tuples_stay_tuples(suffix, tmp_path):
    out = tmp_path / f"config{suffix}"
    write_config(Config.fromfile(COCO), out)
    assert read_config(str(out)).to_dict() == read_config(COCO).to_dict()
    pipeline = read_config(str(out)).train_dataloader.dataset.pipeline
    scales = next(t for step in pipeline if "transforms" in step for t in step.transforms[0] if "scales" in t).scales
    assert isinstance(scales[0], tuple)  # RandomChoiceResize takes no lists


def test_a_data_config_trains_and_is_tested(scenes, tmp_path, capsys):
    options = {**at(scenes), "train_cfg.max_iters": 1, "train_cfg.val_interval": 2, "param_scheduler": "[]"}
    out, work = tmp_path / "mine.json", tmp_path / "work"
    assert main(["config", ROUTED, str(out), "--cfg-options", *(f"{k}={v}" for k, v in options.items())]) == 0
    assert main(["train", str(out), "--work-dir", str(work), "--no-validate"]) == 0
    assert (work / "mine.py").is_file()  # the runner's copy, of what it ran
    capsys.readouterr()
    line = ["test", str(out), str(work / "iter_1.pth"), "--work-dir", str(work), "--json", "--macs-pictures", "1"]
    assert main(line) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["keep_ratio"] == dict.fromkeys(
        ("s0b0", "s1b0", "s1b2", "s2b0"), 0.5
    )


def test_sparsify_writes_data(tmp_path):
    dense = str(ROOT / "configs/demo/atss_convnext-mini_scenes.py")
    for suffix in (".py", ".json", ".yml"):
        assert main(["sparsify", dense, str(tmp_path / f"routed{suffix}"), "--sparsity", "places=[(0,1),(2,1)]"]) == 0
    python, *data = (read_config(str(tmp_path / f"routed{suffix}")).to_dict() for suffix in (".py", ".json", ".yml"))
    assert data == [python, python]


MODEL = dict(default_scope="mmdet", model=dict(type="ATSS"))


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
@pytest.mark.parametrize(
    "more, sentence",
    [
        (dict(_base_="evil.py"), "_base_='evil.py' loads other files or modules, which only a .py config may"),
        (dict(custom_imports=dict(imports=["evil"])), r"custom_imports=\{'imports': \['evil'\]\} loads other"),
        (dict(work_dir="{{ fileBasename }}"), r"work_dir='\{\{ fileBasename \}\}' is a placeholder"),
        (dict(work_dir="{{ $HOME:x }}"), "is a placeholder, which only a .py config may have"),
        (dict(custom_hooks=[dict(type="os.system", command="evil")]), r"custom_hooks\[0\].type='os.system' is in no"),
        (dict(custom_hooks=[dict(type="mmengine.load", file="evil.pkl")]), r"type='mmengine.load' is in no registry"),
        (dict(custom_hooks=[dict(type="mmsparse.trust.os.system")]), "type='mmsparse.trust.os.system' is in no"),
        (dict(custom_hooks=[dict(type="evil")]), r"custom_hooks\[0\].type='evil' is in no registry"),
        (dict(model=dict(test_cfg=dict(nms=dict(type="__import__('evil')")))), "model.test_cfg.nms.type="),
        (dict(model=dict(_scope_="evil")), r"`default_scope` to be one of .*, but got 'evil'"),
        (dict(default_scope="evil"), "`default_scope` to be one of .*, but got 'evil'"),
        (dict(runner_type="evil.Runner"), "runner_type='evil.Runner' is in no registry"),
    ],
)
def test_a_data_config_runs_nothing(more, sentence, suffix, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text(RUNS.format(str(tmp_path / "ran")))
    with pytest.raises(ValueError, match=sentence):
        read_config(str(written(tmp_path, suffix, {**MODEL, **more})))
    assert not (tmp_path / "ran").exists()


def test_tags_of_yaml_are_not_run(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"model: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']\n")
    with pytest.raises(ValueError, match="could not determine a constructor for the tag"):
        read_config(str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "tree, sentence",
    [
        (dict(classes={0: "disc"}), r"cannot hold what is in \['classes'\], such as keys that are numbers. Write a "),
        (dict(kind=torch.nn.Linear), "cannot hold this config: Object of type type is not JSON serializable"),
        (dict(custom_imports=dict(imports=["projects.tpc"])), "which only a .py config may"),
    ],
)
def test_what_data_cannot_hold_is_not_written(tree, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        write_config(Config(tree), tmp_path / "config.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["[1, 2]", "{", "3"])
def test_what_is_no_config_is_refused_in_a_sentence(text, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="Argument `config`: cannot read"):
        read_config(str(path))
