"""The ImageNet configs train on data of ImageNet's format: frozen at first, with a teacher, and predict."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from mmsparse.apis import get_keep_ratio, record_selections
from mmsparse.cli.building import build_plain

CONFIGS = Path(__file__).parents[2] / "configs/imagenet"
MICRO = {
    "dynamic-convnext-t_k70_32xb128-120e_in1k": (dict(arch="atto"), 320),
    "dynamic-swin-t_k70_32xb128-120e_in1k": (
        dict(embed_dims=32, depths=[2, 2, 4, 2], num_heads=[1, 2, 4, 8]),
        256,
    ),
    "dynamic-deit-s_k70_8xb128-30e_in1k": (
        dict(arch=dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64)),
        32,
    ),
}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> Path:
    """One picture for each of the 1000 classes."""
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for number in range(1000):
        folder = root / "train" / f"n{number:08d}"
        folder.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / "0.JPEG")
    return root


def short(name: str, imagenet: Path, work_dir: Path) -> Config:
    """Two epochs of two steps; the first is the frozen one."""
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    arch, width = MICRO[name]
    cfg.model.backbone.update(arch)
    cfg.model.head.in_channels = width
    if "img_size" in cfg.model.backbone:
        cfg.model.backbone.img_size = 64
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.update(data_root=str(imagenet), indices=8)
    cfg.train_dataloader.dataset.pipeline[1].scale = 64
    cfg.train_cfg.max_epochs = 2
    cfg.optim_wrapper.paramwise_cfg.freeze_epochs = 1
    cfg.param_scheduler = []
    for key in ("val_cfg", "val_dataloader", "val_evaluator", "test_cfg", "test_dataloader", "test_evaluator"):
        cfg[key] = None
    cfg.load_from = None
    cfg.env_cfg.dist_cfg.backend = "gloo"
    cfg.randomness = dict(seed=0)
    cfg.work_dir = str(work_dir)
    return cfg


@pytest.mark.parametrize("name", MICRO)
def test_two_epochs(name: str, imagenet: Path, tmp_path: Path):
    runner = Runner.from_cfg(short(name, imagenet, tmp_path))
    model, logged, states = runner.model, [], []

    def watch(losses):
        states.append({key: value.detach().clone() for key, value in model.named_parameters()})
        logged.append(type(model).parse_losses(model, losses))
        return logged[-1]

    model.parse_losses = watch
    with record_selections(model) as taken:
        runner.train()
    states.append(dict(model.named_parameters()))
    assert len(logged) == 4
    targets, weight = get_keep_ratio(model), 2.0 if "deit" in name else 10.0
    for step, (total, log) in enumerate(logged):
        places = taken[3 * step : 3 * step + 3]
        errors = [(s.keep_mask.float().mean(1) - targets[place]).square().mean().item() for place, s in places]
        assert log["loss_sparsity"].item() == pytest.approx(weight * sum(errors) / 3, rel=1e-4)
        assert total.isfinite() and {"loss", "loss_distill_feat", "loss_distill_cls"} <= log.keys()
    moved = [
        {key for key, value in after.items() if not torch.equal(value, before[key])}
        for before, after in pairwise(states)
    ]
    for step in moved[:2]:  # what is pretrained rests
        assert step and all(".router." in key for key in step)
    for step in moved[2:]:
        assert "head.fc.weight" in step or "head.layers.head.weight" in step
        assert any(key.startswith("backbone.") and ".router." not in key for key in step)
        assert not step & {"backbone.cls_token", "backbone.pos_embed"}

    model.eval()
    sample = dict(inputs=[torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)])
    (prediction,) = model.test_step(sample)
    assert prediction.pred_score.shape == (1000,)
    assert prediction.pred_score.sum().item() == pytest.approx(1.0, abs=1e-4)


def test_tools_normalise_pictures_as_training_does():
    """mmpretrain's configs have their preprocessor beside the model, from where only a runner takes it."""
    cfg = Config.fromfile(CONFIGS / "deit-s_8xb128-30e_in1k.py")
    assert "data_preprocessor" not in cfg.model
    assert build_plain(cfg).data_preprocessor.mean.flatten().tolist() == pytest.approx(cfg.data_preprocessor.mean)
