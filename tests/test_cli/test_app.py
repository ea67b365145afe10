"""Pictures of visitors, and what ``mmsparse app`` refuses; the page itself is clicked in test_browser.py."""

import io
import socket
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from PIL import Image
from scenes import ROOT, at

from mmsparse.apis import budget, get_keep_ratio
from mmsparse.cli import app
from mmsparse.cli.building import build_model, read_test_set
from mmsparse.cli.commands import app as commands_app
from mmsparse.cli.main import main
from mmsparse.cli.viewing import Limits, Viewer, reader_of
from mmsparse.configs import read_config

DETECTOR = "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py"
SEGMENTER = "configs/demo/dynamic-convnext-atto_k50_fpn_scenes.py"
CLASSIFIER = "configs/imagenet/dynamic-deit-s_k70_8xb128-30e_in1k.py"
DENSE = "configs/demo/atss_convnext-mini_scenes.py"


@pytest.mark.parametrize("config", [DETECTOR, SEGMENTER])
def test_a_file_becomes_what_the_test_set_makes_of_it(config, scenes):
    cfg = read_config(config, at(scenes))
    expected = read_test_set(cfg)[0]
    path = expected["data_samples"].img_path
    picture = reader_of(cfg)(path)
    assert (picture["inputs"] == expected["inputs"]).all()
    for key in ("scale_factor", "img_shape", "ori_shape"):
        assert picture["data_samples"].get(key) == expected["data_samples"].get(key)


def test_visitors_do_not_disturb_each_other(scenes):
    cfg = read_config(DETECTOR, at(scenes))
    model = build_model(cfg)
    before = get_keep_ratio(model)
    viewer = Viewer(model, cfg, Limits(1, 10**6), score_thr=0.0)
    jobs = [(read_test_set(cfg)[n]["data_samples"].img_path, ratio) for n in (0, 1) for ratio in (None, 0.2, 0.8, 1.0)]
    alone = [viewer(*job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: viewer(*job), jobs))
    for one, other in zip(alone, together, strict=True):
        assert one.name == other.name and one.routed.macs == other.routed.macs and one.dense.macs == other.dense.macs
        assert one.places.keys() == other.places.keys()
        assert all(np.array_equal(share, other.places[place]) for place, share in one.places.items())
        assert np.array_equal(one.routed.found.drawn, other.routed.found.drawn)
    assert get_keep_ratio(model) == before
    assert len({seen.routed.macs.total for seen in alone[:4]}) == 4


def test_a_classifier_names_what_is_likeliest(tmp_path):
    """Its config's visualizer has no name."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)).save(tmp_path / "a.png")
    cfg = read_config(CLASSIFIER)
    model = build_model(cfg)
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter)
    viewer = Viewer(model, cfg, Limits(1, 10**6))
    seen = viewer(tmp_path / "a.png", keep_ratio=0.5)
    assert list(seen.places) == ["backbone.b3", "backbone.b6", "backbone.b9"]
    assert {round(float(share.mean()), 2) for share in seen.places.values()} == {0.5}
    with torch.no_grad():
        scores = model.test_step(pseudo_collate([viewer.read(tmp_path / "a.png")]))[0].pred_score
    with budget({"backbone": [0.5] * 3}, model), torch.no_grad():
        routed = model.test_step(pseudo_collate([viewer.read(tmp_path / "a.png")]))[0].pred_score
    assert not torch.equal(scores, routed)
    best = int(routed.argmax())
    assert seen.routed.found.names[0] == f"{viewer.visualizer.dataset_meta['classes'][best]} {routed[best]:.2f}"


def bomb(path: Path) -> Path:
    """A PNG of a few bytes that says that it has four thousand million pixels."""
    file = io.BytesIO()
    Image.new("1", (8, 8)).save(file, "png")
    data = bytearray(file.getvalue())
    data[16:24] = (65000).to_bytes(4) * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    path.write_bytes(data)
    return path


def test_large_pictures_and_other_files_are_refused_by_their_headers(tmp_path):
    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")
    Limits(1, 60_000).check(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"^a.png has more than 0.059999 million pixels \(--max-pixels\)$"):
        Limits(1, 59_999).check(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"^a.png has 0.0 MB; at most 0.0001 are allowed \(--max-mb\)$"):
        Limits(0.0001, 60_000).check(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"^bomb.png has more than 16 million pixels"):
        Limits(1, 16_000_000).check(bomb(tmp_path / "bomb.png"))
    for name, content in (("text.png", b"no picture"), ("empty.jpg", b""), ("<b>.png", b"\x89PNG\r\n\x1a\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"^{name} cannot be read as a picture$"):
            Limits(1, 60_000).check(tmp_path / name)


def test_what_pillow_knows_and_the_pipeline_does_not_is_refused(scenes, tmp_path):
    """Cut off behind its header."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    cfg = read_config(DETECTOR, at(scenes))
    with pytest.raises(ValueError, match=r"^cut.jpg cannot be read as a picture$"):
        Viewer(build_model(cfg), cfg, Limits(1, 10**6))(tmp_path / "cut.jpg")


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield door.getsockname()[1]


def test_doors_that_cannot_be_opened(taken):
    for host, port, message in [
        ("127.0.0.1", taken, rf"^Cannot listen at 127.0.0.1:{taken}: Address already in use. Choose another --port"),
        ("no.such.host.invalid", 0, "^Cannot listen at no.such.host.invalid:0: "),
    ]:
        with pytest.raises(OSError, match=message), app.listen(host, port):
            pass
    with pytest.raises(ValueError, match="`port` to be in 0 to 65535, but got 70000"), app.listen("127.0.0.1", 70000):
        pass
    with app.listen("127.0.0.1", 0) as door:
        assert door.getsockname()[0] == "127.0.0.1" and door.getsockname()[1] > 0


@pytest.mark.parametrize("args, message", [
    ([DETECTOR, "none.pth", "none.png"], "Argument `pictures`: there is no picture at 'none.png'"),
    ([DETECTOR, "none.pth", "--port", "TAKEN"], "Address already in use. Choose another --port"),
    ([DETECTOR, "none.pth", "--port", "0"], "`checkpoint` to be a file, but got 'none.pth'"),
    ([DETECTOR, "none.pth", "--port", "0", "--max-pixels", "0"], "`max_pixels` to be positive, but got 0"),
    ([DETECTOR, "none.pth", "--port", "0", "--max-mb", "-1"], "`max_mb` to be positive, but got -1"),
    ([DETECTOR, "none.pth", "--port", "0", "--rounds", "-1"], "`rounds` to be at least 0, but got -1"),
])  # fmt: skip
def test_mistakes_end_in_a_sentence(args, message, taken, monkeypatch, capsys):
    monkeypatch.setattr(commands_app, "check_gradio", lambda: None)
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main(["app", *(str(taken) if arg == "TAKEN" else arg for arg in args)])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert end.value.code == 2 and line.startswith("mmsparse app: error: ") and message in line


def test_a_network_that_decides_nothing_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(commands_app, "check_gradio", lambda: None)
    monkeypatch.chdir(ROOT)
    torch.save({"state_dict": build_model(read_config(DENSE)).state_dict()}, tmp_path / "dense.pth")
    with pytest.raises(SystemExit):
        main(["app", DENSE, str(tmp_path / "dense.pth"), "--port", "0"])
    assert f"{DENSE} has no dynamic part: it looks everywhere" in capsys.readouterr().err


def test_without_gradio_the_command_ends_with_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as end:
        main(["app", DETECTOR, "none.pth"])
    assert end.value.code == 2
    told = "mmsparse app: error: mmsparse app needs Gradio, which is not installed: pip install 'mmsparse[app]'"
    assert capsys.readouterr().err.strip() == told
