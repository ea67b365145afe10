"""Exported networks: their folder and page, in the place of the model they came from, and what is refused."""

import copy
import errno
import gc
import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from full_disk import files_end_at
from small_networks import DETECTOR, SEGMENTER

from mmsparse.apis import record_selections
from mmsparse.calls import ignore_padding, predict, prepare_batch
from mmsparse.cli.building import build_model, random_pictures
from mmsparse.deploy import FORMATS, Wish, export, serve
from mmsparse.sparsity import real_sizes


def built(cfg):
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deploy") / "detector"
    lines = []
    artifact = export(built(DETECTOR), Wish("openvino", [(96, 128), (64, 96)]), folder, ["a", "b"], tell=lines.append)
    return folder, artifact, lines


def test_the_folder_and_its_page(detector):
    folder, artifact, lines = detector
    assert {path.name for path in folder.iterdir()} == {
        "mmsparse.json", "96x128.xml", "96x128.bin", "64x96.xml", "64x96.bin",
    }  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["detector"]
    page = json.loads((folder / "mmsparse.json").read_text())
    assert page["kind"] == "detector" and page["padded"] and page["classes"] == ["a", "b"]
    assert page["names"] == [f"{name}.{level}" for name in ("cls_scores", "bbox_preds") for level in range(4)]
    assert page["budgets"]["head.level0"] == 0.5
    assert 0 < page["macs"]["96x128"]["executed"] < page["macs"]["96x128"]["dense"]
    assert max(artifact.agreement.values()) < 1e-5
    assert "96x128: within" in lines[2]


@pytest.mark.parametrize("size", [(96, 128), (64, 96)])
def test_it_predicts_as_the_model_does(detector, size):
    folder, *_ = detector
    eager, served = built(DETECTOR), built(DETECTOR)
    serve(served, folder)
    with torch.no_grad():
        (expected,), (actual,) = (
            predict(m, prepare_batch(m, random_pictures(DETECTOR, 1, size))) for m in (eager, served)
        )
    assert len(expected.pred_instances) == 5
    for key in ("bboxes", "scores"):
        torch.testing.assert_close(actual.pred_instances[key], expected.pred_instances[key], rtol=1e-4, atol=1e-3)
    assert torch.equal(actual.pred_instances.labels, expected.pred_instances.labels)


def test_signals_are_survived_when_programs_go_in_the_order_they_came(detector):
    """A Python process gets them on a stack that OpenVINO brings; memory that was given back would end it."""
    folder, artifact, _ = detector
    caught = []
    before = signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
    try:
        programs = [artifact.load(folder, size) for size in artifact.sizes]
        while programs:
            programs.pop(0)
            gc.collect()
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert caught == [1, 1]


def test_keep_masks_are_results_too(tmp_path):
    lines = []
    wish = Wish("torch-export", [(64, 96)], masks=True)
    artifact = export(built(DETECTOR), wish, tmp_path / "masks", tell=lines.append)
    masks = [name for name in artifact.names if name.startswith("keep_mask.")]
    assert masks == [f"keep_mask.{name}" for name in artifact.budgets]
    assert artifact.equal_masks == {"64x96": 1.0} and lines[-1] == "64x96: 100.000 % of keep masks equal"
    model = built(DETECTOR)
    picture = torch.randn(1, 3, 64, 96)
    *_, mask = artifact.load(tmp_path / "masks", (64, 96))([picture, torch.tensor([[64, 96]])])
    with torch.no_grad(), record_selections(model) as taken:
        model.bbox_head(model.extract_feat(picture))
    assert torch.equal(mask, taken[-1][1].keep_mask)
    serve(model, tmp_path / "masks")  # which has no use for them
    assert len(predict(model, prepare_batch(model, random_pictures(DETECTOR, 1, (64, 96))))) == 1


def test_padding_takes_nothing_from_what_is_real(detector):
    """A smaller picture in the larger program: what is beyond it changes nothing but through the convolutions."""
    folder, artifact, _ = detector
    run = artifact.load(folder, (96, 128))
    x = torch.randn(1, 3, 96, 128)
    sizes = torch.tensor([[64, 96]])
    x[:, :, 64:], x[:, :, :, 96:] = 0, 0
    model = built(DETECTOR)
    with torch.no_grad(), real_sizes(sizes, (96, 128)):
        expected = model.bbox_head(model.extract_feat(x))
    for result, wanted in zip(run([x, sizes]), [*expected[0], *expected[1]], strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(run([x, torch.tensor([[96, 128]])])[0], expected[0][0], atol=1e-5)


def test_a_segmenter_with_sliding_windows(tmp_path):
    export(built(SEGMENTER), Wish("onnx", [(64, 64)]), tmp_path / "out")
    models = [built(SEGMENTER), built(SEGMENTER)]
    serve(models[1], tmp_path / "out")
    for model in models:
        model.test_cfg = model.test_cfg | dict(mode="slide", crop_size=(64, 64), stride=(32, 32))
    with torch.no_grad():
        expected, actual = (predict(m, prepare_batch(m, random_pictures(SEGMENTER, 1, (96, 128))))[0] for m in models)
    torch.testing.assert_close(actual.seg_logits.data, expected.seg_logits.data, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit(detector, tmp_path):
    folder, *_ = detector
    model = built(DETECTOR)
    with pytest.raises(FileNotFoundError, match="holds no exported network"):
        serve(model, tmp_path)
    with pytest.raises(ValueError, match="holds a detector, but the config builds a segmenter"):
        serve(built(SEGMENTER), folder)
    serve(model, folder)
    with pytest.raises(ValueError, match="exported for batches of 1, but got 2 pictures"):
        predict(model, prepare_batch(model, random_pictures(DETECTOR, 2, (64, 96))))
    with pytest.raises(ValueError, match="exported for pictures of 64x96 and 96x128, but got one of 160x96"):
        predict(model, prepare_batch(model, random_pictures(DETECTOR, 1, (160, 96))))


def test_openvino_logs_nothing(tmp_path, monkeypatch, caplog):
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    monkeypatch.setattr(TorchFXPythonDecoder, "_decomp_table", None)  # it complains when it makes one
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(1, 2),), strict=False)
    FORMATS["openvino"].write(program, tmp_path / "program.xml", ["x"], ["y"])
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_what_is_no_export_is_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="is there and is no export"):
        export(built(DETECTOR), Wish("openvino", [(64, 96)]), tmp_path / "mine")


@pytest.mark.parametrize("runtime", ["openvino", "torch-export"])
def test_a_disk_that_is_full(runtime, detector, tmp_path):
    """Whatever a library says of it, or does; what was there before stays."""
    shutil.copytree(detector[0], tmp_path / "there")
    before = (tmp_path / "there/mmsparse.json").read_text()
    with files_end_at(10_000), pytest.raises(OSError) as caught:
        export(built(DETECTOR), Wish(runtime, [(64, 96)], part="backbone"), tmp_path / "there")
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there/mmsparse.json").read_text() == before


def test_a_bug_of_an_export_is_none_of_the_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(FORMATS["openvino"], "write", lambda *_: [][0])
    with pytest.raises(IndexError):
        export(built(DETECTOR), Wish("openvino", [(64, 96)], part="backbone"), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_another(detector, tmp_path):
    folder, artifact, _ = detector
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes() + b" " * (file.suffix == ".bin"))
    with pytest.raises(ValueError, match="sha256 differs"):
        artifact.load(tmp_path, (64, 96))


def test_a_runtime_that_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="OpenVino needs openvino, not installed here: pip install"):
        FORMATS["openvino"].check("f32")


@pytest.mark.parametrize("name, precision", [("onnx", "bf16"), ("onnx", "f16"), ("aoti", "bf16")])
def test_a_precision_that_it_lacks(name, precision):
    with pytest.raises(ValueError, match=f"exports in f32, but --precision is {precision}"):
        FORMATS[name].check(precision)


@pytest.mark.parametrize(
    "changed, said",
    [
        (dict(selector=dict(type="ThresholdSelector")), "a ThresholdSelector .*TopKSelector"),
        (dict(scorer=dict(type="RandomScorer")), "a RandomScorer .*evaluate it in PyTorch"),
    ],
)
def test_what_depends_on_more_than_weights_is_refused(changed, said):
    cfg = copy.deepcopy(DETECTOR)
    cfg.model.neck.sparsity = {**cfg.model.neck.sparsity, **changed}
    model = built(cfg)
    ignore_padding(model)
    with pytest.raises(ValueError, match=f"neck.*cannot be exported: {said}"):
        export(model, Wish("openvino", [(64, 96)]), None)


def test_threads_that_share_a_program_get_their_own_results(tmp_path):
    """Each by an infer request of its own."""
    model, kind = torch.nn.Conv2d(1, 4, 3, padding=1).eval(), FORMATS["openvino"]
    with torch.no_grad():
        program = torch.export.export(model, (torch.randn(1, 1, 128, 128),), strict=False)
    kind.write(program, tmp_path / "program.xml", ["x"], ["y"])
    run = kind.load(tmp_path / "program.xml", "f32", 1)
    inputs = [torch.full((1, 1, 128, 128), float(number)) for number in range(8)]
    alone = [run([x])[0] for x in inputs]
    jobs = [job for _ in range(40) for job in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda job: run([inputs[job]])[0], jobs))
    assert all(torch.equal(result, alone[job]) for job, result in zip(jobs, found, strict=True))
