"""The tools build a model once, give it to the runner, and evaluate it on the real pixels of padded pictures."""

import json
import pickle
import shutil

import pytest
import torch
from commands import run_tool
from mmengine.config import Config
from PIL import Image
from scenes import ROOT, at, options

from mmsparse.cli.building import build_plain, build_seeded
from mmsparse.cli.launch import build_runner
from mmsparse.configs import read_config

DEMO = str(ROOT / "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py")


def child(folder, *lines, name="config"):
    """The demo's config with a backbone that says when it is built."""
    text = [
        f"_base_ = {DEMO!r}",
        "custom_imports = dict(imports=['counted'], allow_failed_imports=False)",
        "model = dict(backbone=dict(type='mmsparse.CountedConvNeXt'))",
        *lines,
    ]
    (folder / f"{name}.py").write_text("\n".join(text))
    return folder / f"{name}.py"


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(1)
    state = build_plain(read_config(DEMO)).state_dict()
    torch.save(dict(state_dict=state), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def run(name, *args):
    code, out, err = run_tool(name, *args)
    assert code == 0, out[-3000:] + err[-3000:]
    return out


def test_a_training(weights, scenes, tmp_path):
    """With initial weights from a file, an average of the weights, a validation, and a learning rate of nothing."""
    init = f"model['backbone']['init_cfg'] = [dict(type='Pretrained', checkpoint={str(weights)!r}, prefix='backbone.')]"
    hooks = "custom_hooks = [dict(type='EMAHook'), dict(type='mmsparse.SparsityHook')]"
    config = child(tmp_path, init, hooks)
    more = {"train_cfg.val_interval": 2, "optim_wrapper.optimizer.lr": 0.0, "randomness.seed": 3}
    out = run("train", config, "--work-dir", tmp_path / "runs", *options(scenes, iters=2, **more))
    assert out.count("built a CountedConvNeXt") == 1
    saved = torch.load(tmp_path / "runs/iter_2.pth", weights_only=False)
    for key, value in torch.load(weights, weights_only=True)["state_dict"].items():
        if key.startswith("backbone."):
            assert torch.equal(saved["state_dict"][key], value), key
            assert torch.equal(saved["ema_state_dict"][f"module.{key}"], value), key
    dumped = Config.fromfile(tmp_path / "runs/config.py").model
    assert dumped.type == "ATSS" and dumped.backbone.init_cfg[0].checkpoint == str(weights)


def test_the_logged_seed_gives_the_same_model(scenes, tmp_path):
    """Its parts that no `init_weights` draws anew, too: here the convolutions' default."""
    config, found, seed = child(tmp_path), [], "None"
    for run_number in range(2):
        folder = tmp_path / f"run{run_number}"
        more = {"optim_wrapper.optimizer.lr": 0.0, "randomness.seed": seed}
        out = run("train", config, "--work-dir", folder, *options(scenes, iters=2, **more))
        found.append(torch.load(folder / "iter_2.pth", weights_only=False))
        seed = str(found[-1]["meta"]["seed"])
        assert out.count("built a CountedConvNeXt") == 1
    one, other = (content["state_dict"] for content in found)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_training_begins_as_one_whose_runner_builds(scenes, tmp_path):
    """The random numbers that a build takes are taken: initial weights are those of a runner that builds by itself."""

    def initial(ready):
        cfg = read_config(DEMO)
        cfg.merge_from_dict(at(scenes))
        cfg.update(work_dir=str(tmp_path / "runs"), randomness=dict(seed=5))
        runner = build_runner(cfg, build_seeded(cfg, pretrained=True) if ready else None)
        runner.model.init_weights()
        return runner.model.state_dict()

    one, other = initial(ready=True), initial(ready=False)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("more", [("--keep-ratio", "0.25"), ("--tta",)])
def test_an_evaluation(more, weights, scenes, tmp_path):
    tta = "tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=9))"
    pipeline = (
        "tta_pipeline = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[["
        "dict(type='Resize', scale=(96, 96), keep_ratio=True)], [dict(type='RandomFlip', prob=1.0)], "
        "[dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', "
        "'flip', 'flip_direction'))]])]"
    )
    config = child(tmp_path, tta, pipeline)
    out = run("test", config, weights, "--work-dir", tmp_path / "runs", *more, "--macs-pictures", "1", *options(scenes))
    assert out.count("built a CountedConvNeXt") == 1
    assert "bbox_mAP" in out
    assert ("keep ratio of each place: {'s0b0': 0.25" in out) == ("--keep-ratio" in more)
    dumped = Config.fromfile(tmp_path / "runs/config.py").model
    assert (dumped.module if "--tta" in more else dumped).type in ("ATSS",)


@pytest.fixture
def mixed(scenes, tmp_path):
    """The scenes, but every other picture of the validation is half as high."""
    shutil.copytree(scenes, tmp_path / "mixed")
    file = tmp_path / "mixed/annotations/val.json"
    content = json.loads(file.read_text())
    for entry in content["images"][::2]:
        path = tmp_path / "mixed/val/images" / entry["file_name"]
        Image.open(path).crop((0, 0, entry["width"], entry["height"] // 2)).save(path)
        entry["height"] //= 2
    file.write_text(json.dumps(content))
    return tmp_path / "mixed"


def test_padding_is_ignored_without_a_hook(weights, mixed, tmp_path):
    found = {}
    for name, hooks in (("without", "[]"), ("with", "[dict(type='mmsparse.SparsityHook')]")):
        config = child(tmp_path, f"custom_hooks = {hooks}", "model['test_cfg'] = dict(score_thr=0.0)", name=name)
        args = ["--out", tmp_path / f"{name}.pkl", "--macs-pictures", "0", *options(mixed)]
        run("test", config, weights, "--work-dir", tmp_path / name, *args)
        found[name] = pickle.loads((tmp_path / f"{name}.pkl").read_bytes())
    assert len(found["with"]) == 4
    for one, other in zip(*found.values(), strict=True):
        assert torch.equal(one["pred_instances"]["scores"], other["pred_instances"]["scores"]), one["img_id"]
