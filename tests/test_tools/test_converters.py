"""The converters as a user runs them."""

import hashlib
import runpy
import sys
from argparse import Namespace

import official
import pytest
import torch
from commands import run_tool
from mmengine.hooks import EMAHook
from mmengine.logging import HistoryBuffer
from mmpretrain.models import ImageClassifier
from scenes import ROOT

from mmsparse.models.convert import convert_dynamicvit
from mmsparse.registry import build

DEPTHS, CHANNELS = (1, 1, 4, 1), (4, 8, 16, 32)


def convert(monkeypatch, capsys, tool, *args, code=0):
    path = f"{ROOT}/tools/model_converters/{tool}.py"
    monkeypatch.setattr(sys, "argv", [path, *map(str, args)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(path, run_name="__main__")
    assert stopped.value.code == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


@pytest.fixture
def files(tmp_path):
    """Checkpoints of several kinds, by name."""
    dynamic, dense = official.convnext(DEPTHS, CHANNELS, 1), official.convnext(DEPTHS, CHANNELS)
    training = dict(epoch=3, args=Namespace(base_rate=0.7))  # what else the release's training script saves
    for name, content in {
        "dynamic": dict(model=dynamic, **training),
        "dense": dict(model=dense, **training),
        "ddp": {f"module.{key}": value for key, value in dense.items()},
        "converted": dict(state_dict=convert_dynamicvit(dynamic).weights, meta={}),
        "resnet": {"conv1.weight": torch.ones(8, 3, 7, 7), "fc.bias": torch.ones(1)},
        "optimizer": dict(optimizer={"state": {}, "param_groups": []}, epoch=3),
        "list": [1, 2, 3],
        "dinov3": {"layer.0.attention.k_proj.weight": torch.ones(4, 4), "embeddings.register_tokens": torch.ones(1)},
        "incomplete": dict(model={key: value for key, value in dynamic.items() if "norm" not in key}),
    }.items():
        torch.save(content, tmp_path / f"{name}.pth")
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    return tmp_path


def classifier(backbone):
    head = dict(type="LinearClsHead", num_classes=10, in_channels=CHANNELS[-1])
    return ImageClassifier(backbone={**backbone, "type": "mmsparse.DynamicConvNeXt"}, head=head)


def test_release_becomes_a_classifier(files, monkeypatch, capsys):
    dst = files / "new" / "ours.pth"
    out = convert(monkeypatch, capsys, "dynamicvit_to_mmsparse", files / "dynamic.pth", dst)
    content = torch.load(dst, weights_only=True)
    weights, meta = content["state_dict"], content["meta"]
    assert f"loaded: {len(weights)}\n  missing: 0\n  unexpected: 0\n" in out
    assert "'type': 'LocalGlobalScorer', 'eps': 1e-06" in out and "keep ratio is no weight" in out
    assert meta["converted_from"] == "DynamicViT release, original ConvNeXt"
    model = classifier(meta["backbone"])
    model.load_state_dict(weights, strict=True)
    original = torch.load(files / "dynamic.pth", weights_only=False)["model"]
    assert torch.equal(model.head.fc.weight, original["head.weight"])
    assert [path.name for path in dst.parent.iterdir()] == ["ours.pth"]

    init = dict(type="Pretrained", checkpoint=str(dst), prefix="backbone.")
    backbone = build({**meta["backbone"], "init_cfg": init})
    backbone.init_weights()
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, weights[f"backbone.{key}"]), key


@pytest.mark.parametrize("name", ["dense", "ddp"])
def test_dense_release_becomes_the_start_of_a_dynamic_network(files, monkeypatch, capsys, name):
    dst = files / "ours.pth"
    out = convert(monkeypatch, capsys, "dense_to_mmsparse", files / f"{name}.pth", dst)
    assert "missing: 0\n  unexpected: 0\n" in out
    content = torch.load(dst, weights_only=True)
    model = classifier({**content["meta"]["backbone"], "sparsity": dict(keep_ratio=0.7)})
    result = model.load_state_dict(content["state_dict"], strict=False)
    assert not result.unexpected_keys
    assert result.missing_keys and all(".router." in key for key in result.missing_keys)


DYNAMIC, DENSE, PUBLISH = "dynamicvit_to_mmsparse", "dense_to_mmsparse", "publish_model"


@pytest.mark.parametrize(
    "tool, name, message",
    [
        (DYNAMIC, "absent", "Expected argument `src` to be a file, but got '"),
        (DYNAMIC, "page", "page.pth is not a checkpoint that PyTorch can read"),
        (DYNAMIC, "list", "list.pth holds no weights, but a list"),
        (DYNAMIC, "optimizer", "the file holds no weights, only ['epoch', 'optimizer']"),
        (DYNAMIC, "converted", "already have the OpenMMLab layout"),
        (DYNAMIC, "dense", "use `mmsparse convert-dense`"),
        (DYNAMIC, "resnet", "no score_predictor"),
        (DYNAMIC, "incomplete", "nothing in the file becomes stages.0.0.norm.weight"),
        (DENSE, "absent", "Expected argument `src` to be a file, but got '"),
        (DENSE, "optimizer", "holds no weights"),
        (DENSE, "converted", "already have the OpenMMLab layout"),
        (DENSE, "dynamic", "use `mmsparse convert-dynamicvit`"),
        (DENSE, "resnet", "unknown layout, with keys such as ['conv1.weight', 'fc.bias']"),
        (
            DENSE,
            "dinov3",
            "this is a DINOv3 ViT, with rotary positions and register tokens (embeddings.register_tokens)",
        ),
        (PUBLISH, "absent", "Expected argument `src` to be a file, but got '"),
        (PUBLISH, "optimizer", "expected a checkpoint of mmengine with a state_dict"),
        (PUBLISH, "dense", "dense.pth holds 3 keys, such as ["),
        (
            PUBLISH,
            "ddp",
            " keys, such as ['module.downsample_layers.0.0.bias', 'module.downsample_layers.0.0.weight', ",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_sentence(files, monkeypatch, capsys, tool, name, message):
    before = sorted(files.iterdir())
    error = convert(monkeypatch, capsys, tool, files / f"{name}.pth", files / "new" / "ours.pth", code=2)
    assert message in error and error.count("\n") == 1
    assert sorted(files.iterdir()) == before


def test_weights_go_out_and_come_back_in_the_hub_s_kind_of_file(tmp_path, monkeypatch, capsys):
    safetensors = pytest.importorskip("safetensors.torch", reason="the package safetensors is not installed")
    theirs = official.timm_convnext(official.convnext(DEPTHS, CHANNELS))
    src, middle, dst = tmp_path / "model.safetensors", tmp_path / "ours.pth", tmp_path / "new" / "theirs.safetensors"
    safetensors.save_file(theirs, src)
    out = convert(monkeypatch, capsys, DENSE, src, middle)
    assert "timm ConvNeXt -> " in out and "missing: 0\n  unexpected: 0\n" in out
    content = torch.load(middle, weights_only=True)
    model = classifier({**content["meta"]["backbone"], "sparsity": dict(keep_ratio=0.5)})
    assert not model.load_state_dict(content["state_dict"], strict=False).unexpected_keys
    torch.save(dict(state_dict=model.state_dict(), meta={}), middle)  # as trained with routing
    out = convert(monkeypatch, capsys, DENSE, middle, dst, "--to", "timm")
    assert f"written: {len(theirs)}\n  missing: 0\n" in out and "backbone.router: " in out and "keep_ratio=1" in out
    again = safetensors.load_file(dst)
    assert b'"__metadata__":{"format":"pt"}' in dst.read_bytes()[:4096]  # transformers takes no other
    assert again.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key]) for key, value in again.items())
    convert(monkeypatch, capsys, DENSE, middle, tmp_path / "theirs.bin", "--to", "timm")
    plain = torch.load(tmp_path / "theirs.bin", weights_only=True)
    assert all(torch.equal(value, theirs[key]) for key, value in plain.items())


@pytest.mark.parametrize(
    "name, dst, options, message",
    [
        ("model.safetensors.index.json", "x.pth", (), "lists the parts of a file"),
        ("broken.safetensors", "x.pth", (), "is not a checkpoint that PyTorch can read (SafetensorError)"),
        ("dense.pth", "x.safetensors", (), "Expected argument `dst` to be a checkpoint of mmengine"),
        ("dense.pth", "x.safetensors", ("--to", "hf"), "in the OpenMMLab layout, but got keys such as"),
        ("resnet.pth", "x.pth", ("--to", "timm"), "in the OpenMMLab layout, but got keys such as ['conv1.weight'"),
        ("converted.pth", "x.pth", ("--to", "keras"), "invalid choice: 'keras'"),
    ],
)
def test_mistakes_around_files_of_the_hub(files, monkeypatch, capsys, name, dst, options, message):
    pytest.importorskip("safetensors", reason="the package safetensors is not installed")
    (files / "model.safetensors.index.json").write_text("{}")
    (files / "broken.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{{{{{{{{")
    before = sorted(files.iterdir())
    error = convert(monkeypatch, capsys, DENSE, files / name, files / "new" / dst, *options, code=2)
    assert message in error and error.count("\n") == 1
    assert sorted(files.iterdir()) == before


def test_addresses_of_the_hub_s_files_are_refused(tmp_path, monkeypatch, capsys):
    pytest.importorskip("safetensors", reason="the package safetensors is not installed")
    error = convert(monkeypatch, capsys, DENSE, "https://host/model.safetensors", tmp_path / "x.pth", code=2)
    assert "https://host/model.safetensors must be downloaded first" in error


def test_a_missing_package_is_named(files, monkeypatch, capsys):
    monkeypatch.setattr("mmsparse.checkpoints.find_spec", lambda name: None)
    (files / "model.safetensors").write_bytes(b"")
    error = convert(monkeypatch, capsys, DENSE, files / "model.safetensors", files / "x.pth", code=2)
    assert "pip install safetensors" in error


@pytest.mark.parametrize("dst, message", [("", "is a folder"), ("dense.pth", "the same file as `src`")])
def test_destinations_that_cannot_be_are_refused(files, monkeypatch, capsys, dst, message):
    before = (files / "dense.pth").read_bytes()
    assert message in convert(monkeypatch, capsys, DENSE, files / "dense.pth", files / dst, code=2)
    assert (files / "dense.pth").read_bytes() == before


@pytest.mark.parametrize("tool, name", [(DENSE, "dense"), (DYNAMIC, "dynamic"), (PUBLISH, "converted")])
def test_destinations_below_a_file_are_refused(files, monkeypatch, capsys, tool, name):
    error = convert(monkeypatch, capsys, tool, files / f"{name}.pth", files / "page.pth" / "below" / "x.pth", code=2)
    assert f"'{files}/page.pth/below'" in error and "cannot" in error and error.count("\n") == 1


@pytest.fixture
def trained(tmp_path):
    """A checkpoint as mmengine writes it with an EMA hook."""
    weights, averaged = {"w": torch.full((3,), 1.0)}, {"module.w": torch.full((3,), 2.0), "steps": torch.tensor(9)}
    cfg = "model = None\nload_from = '/home/me/dense.pth'\ndata_root = 'data/mine/'"
    content = dict(meta=dict(epoch=1, cfg=cfg), state_dict=weights, ema_state_dict=averaged)
    EMAHook()._swap_ema_state_dict(content)
    content.update(optimizer={"state": {}}, param_schedulers=[], message_hub={"loss": HistoryBuffer()})
    torch.save(content, tmp_path / "epoch_1.pth")
    return tmp_path


@pytest.mark.parametrize("options, value", [((), 2.0), (("--no-ema",), 1.0)])
def test_publishing_keeps_weights_and_meta(trained, monkeypatch, capsys, options, value):
    out = convert(monkeypatch, capsys, PUBLISH, trained / "epoch_1.pth", trained / "public" / "net.pth", *options)
    (path,) = (trained / "public").iterdir()
    assert path.name == f"net-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth" and str(path) in out
    content = torch.load(path, weights_only=True)
    cfg = "model = None\nload_from = 'dense.pth'\ndata_root = 'data/mine/'"
    assert content.keys() == {"meta", "state_dict"} and content["meta"] == dict(epoch=1, cfg=cfg)
    assert content["state_dict"].keys() == {"w"} and torch.equal(content["state_dict"]["w"], torch.full((3,), value))
    assert "dropped: ema_state_dict, optimizer, param_schedulers, message_hub" in out

    again = convert(monkeypatch, capsys, PUBLISH, path, trained / "twice.pth", code=2)
    assert "published already" in again and not list(trained.glob("twice*"))


def test_publishing_in_half_precision(tmp_path, monkeypatch, capsys):
    state = {"w": torch.tensor([0.1, -3.0]), "steps": torch.tensor(70000)}
    torch.save(dict(state_dict=state), tmp_path / "net.pth")
    convert(monkeypatch, capsys, PUBLISH, tmp_path / "net.pth", tmp_path / "public" / "net.pth", "--half")
    (path,) = (tmp_path / "public").iterdir()
    found = torch.load(path, weights_only=True)["state_dict"]
    assert torch.equal(found["w"], state["w"].half()) and torch.equal(found["steps"], state["steps"])
    torch.save(dict(state_dict={"w": torch.tensor([1.0, 70000.0])}), tmp_path / "large.pth")
    error = convert(monkeypatch, capsys, PUBLISH, tmp_path / "large.pth", tmp_path / "large", "--half", code=2)
    assert "--half: w holds numbers" in error and not list(tmp_path.glob("large-*"))


def test_publishing_is_reproducible_and_names_a_missing_average(trained, monkeypatch, capsys):
    for name in ("one", "two"):
        convert(monkeypatch, capsys, PUBLISH, trained / "epoch_1.pth", trained / name / "net.pth")
    assert [p.name for p in (trained / "one").iterdir()] == [p.name for p in (trained / "two").iterdir()]
    torch.save(dict(state_dict={"w": torch.ones(3)}), trained / "plain.pth")
    error = convert(monkeypatch, capsys, PUBLISH, trained / "plain.pth", trained / "net.pth", "--no-ema", code=2)
    assert "trained without EMA" in error


def test_as_a_command(files):
    code, _, err = run_tool("model_converters/dense_to_mmsparse", files / "resnet.pth", files / "x.pth")
    assert code == 2 and "Traceback" not in err and "unknown layout" in err
