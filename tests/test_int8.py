"""Export in integers: what stays in float, what is integers before it is gathered, and what is said."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import nncf
import pytest
import torch
from scenes import ROOT, at
from small_networks import DETECTOR

from mmsparse.apis import find_deciders
from mmsparse.cli.budgets import open_config
from mmsparse.cli.building import build_model, read_training_pictures
from mmsparse.deploy import FORMATS, Wish, export
from mmsparse.deploy.export import calls_of
from mmsparse.deploy.rivals import Form

SIZE = (96, 128)
INTEGER = {"FakeQuantize", "Convert"}  # what makes an operand one


def trained():
    """As if: no bias is zero, and results do not vanish."""
    torch.manual_seed(0)
    model = build_model(DETECTOR)
    for name, parameter in model.named_parameters():
        if name.startswith(("neck", "bbox_head")) and "scorer" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder, its page, what was told, and what NNCF was asked to leave in float."""
    folder, lines, ignored = tmp_path_factory.mktemp("int8") / "detector", [], []
    quantize = nncf.quantize

    def watched(*args, **kwargs):
        ignored.extend(kwargs["ignored_scope"].names)
        return quantize(*args, **kwargs)

    pictures = [torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nncf, "quantize", watched)
        wish = Wish("openvino", [SIZE], precision="int8", masks=True, pictures=pictures)
        artifact = export(trained(), wish, folder, tell=lines.append)
    return folder, artifact, lines, ignored


def products(folder):
    """Each matrix product and convolution of the written file, and whether its operands are integers."""
    import openvino

    model = openvino.Core().read_model(folder / "96x128.xml")
    for node in model.get_ops():
        if node.get_type_name() in ("MatMul", "Convolution", "GroupConvolution"):
            yield node, [source_of(node.input_value(i)).get_type_name() for i in (0, 1)]


def source_of(value, through=("Reshape", "Transpose", "Gather", "Concat", "Pad", "Squeeze", "Unsqueeze")):
    """What made a value, behind what only moves it, and of weights behind their scale."""
    node = value.get_node()
    while node.get_type_name() in (*through, "Multiply") and (
        node.get_type_name() != "Multiply" or node.input_value(0).get_node().get_type_name() == "Convert"
    ):
        node = node.input_value(0).get_node()
    return node


def test_what_chooses_is_in_float_and_the_rest_is_not(exported):
    folder, _, _, ignored = exported
    made = {node.get_friendly_name(): operands for node, operands in products(folder)}
    in_float = {name for name, operands in made.items() if not INTEGER & set(operands)}
    in_integers = {name for name, operands in made.items() if set(operands) <= INTEGER}
    assert in_float | in_integers == made.keys()
    assert in_float == made.keys() & set(ignored)
    assert len(in_float) >= 2 * len(find_deciders(trained()))


def test_rows_are_integers_before_they_are_gathered(exported):
    folder, *_ = exported
    made = []
    for node, _ in products(folder):
        source = node.input_value(0).get_node()
        while source.get_type_name() in ("Reshape", "Transpose"):
            source = source.input_value(0).get_node()
        if source.get_type_name() == "Gather":
            made.append(source_of(source.input_value(0)).get_type_name())
    assert set(made) == {"FakeQuantize"}
    assert len(made) >= 12  # at least the slow and the fast path of neck and head, of two levels each


def test_results(exported):
    _, artifact, lines, _ = exported
    assert artifact.precision == "int8" and "nncf" in artifact.versions
    assert "96x128: quantising, after 3 pictures" in lines
    assert artifact.equal_masks["96x128"] > 0.8 and artifact.agreement["96x128"] > 1e-3  # and it is no float


def test_pictures_of_a_call():
    """Cut where they are larger, filled where they are smaller, a real size each; what makes no batch is left out."""
    wish = Wish("openvino", [], batch=2, precision="int8", pictures=[torch.full((3, 10 + n, 30), n) for n in range(5)])
    calls = calls_of(wish, (12, 16), padded=True)
    assert [sizes.tolist() for _, sizes in calls] == [[[10, 16], [11, 16]], [[12, 16], [12, 16]]]
    assert [pictures.sum().item() for pictures, _ in calls] == [3 * 11 * 16, 3 * 12 * 16 * 5]
    with pytest.raises(ValueError, match="The 1 pictures of --calibration make no batch of 2"):  # noise would be none
        calls_of(replace(wish, pictures=wish.pictures[:1]), (12, 16), padded=True)


@pytest.mark.parametrize("wrapped", [False, True])
def test_training_pictures_come_from_all_over(scenes, wrapped):
    cfg = open_config(str(ROOT / "configs/demo/atss_convnext-nano_fpn_scenes.py"), at(scenes))
    if wrapped:
        cfg.train_dataloader.dataset = dict(type="RepeatDataset", times=2, dataset=cfg.train_dataloader.dataset)
    names = [picture["file_name"] for picture in json.loads((scenes / "annotations/train.json").read_text())["images"]]
    expected = [Path(names[number]).name for number in (0, 4, 8)]
    found = read_training_pictures(cfg, 3)
    assert [Path(picture["data_samples"].img_path).name for picture in found] == expected
    assert all(picture["inputs"].shape == found[0]["inputs"].shape for picture in found)  # those of tests: no crops


@pytest.mark.parametrize("name", ["onnx", "torch-export", "aoti"])
def test_formats_without(name):
    with pytest.raises(ValueError, match="but --precision is int8. OpenVINO has all of f32, bf16, f16, int8"):
        FORMATS[name].check("int8")


def test_without_nncf(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else find(name))
    FORMATS["openvino"].check("int8")  # to run it
    with pytest.raises(RuntimeError, match="OpenVino needs nncf, not installed here"):
        FORMATS["openvino"].check("int8", writing=True)


def test_forms():
    assert Form.read("openvino-int8") == Form("openvino", "int8")
    for runtime in ("eager", "compiled"):
        with pytest.raises(ValueError, match=f"or openvino-int8, but got '{runtime}-int8'"):
            Form.read(f"{runtime}-int8")
