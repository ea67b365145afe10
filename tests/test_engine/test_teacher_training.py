"""Trainings with a teacher: it is learned from, saved and resumed with the student."""

import copy
import json
import math
import os

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from scenes import ROOT, at
from students import CONVNEXT, Toy
from torch.utils.data import Dataset

from mmsparse.configs import read_config
from mmsparse.engine import SparsityHook, TeacherHook
from mmsparse.models import DynamicConvNeXt

DEMO = str(ROOT / "configs/demo/atss_dynamic-convnext-mini_k50_scenes.py")
DENSE_DEMO = str(ROOT / "configs/demo/atss_convnext-mini_scenes.py")


class Pictures(Dataset):
    metainfo: dict = {}

    def __len__(self):
        return 400  # mmengine waits two seconds before it begins anew

    def __getitem__(self, index):
        return dict(inputs=torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(index % 4)))


class Silent(Toy):
    """Only the teacher has something to say."""

    def forward(self, inputs, data_samples=None, mode="tensor"):
        maps = self.backbone(inputs)
        return dict(nothing=maps[-1].new_zeros(())) if mode == "loss" else maps


def train(work_dir, model, hook, iters=6, resume=None, custom=(), lr=1e-3, **kwargs):
    logged = {}
    runner = Runner(
        model,
        str(work_dir),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            dataset=Pictures(),
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=iters),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=lr)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=max(iters // 2, 3), by_epoch=False)),
        custom_hooks=[hook, SparsityHook(anneal=None), dict(type="mmsparse.SeedHook", seed=0), *custom],
        resume=resume is not None,
        load_from=None if resume is None else str(resume),
        default_scope="mmengine",
        experiment_name=f"{work_dir}-{resume}-{kwargs}",
    )
    parse = type(model).parse_losses

    def note(losses):
        logged[runner.iter] = losses["loss_distill_feat"].item()
        return parse(model, losses)

    model.parse_losses = note
    runner.train()
    return logged, runner


class Start(Hook):
    """The student's weights when its training begins: Runner draws them anew."""

    priority = "LOWEST"

    def before_train(self, runner):
        self.state = copy.deepcopy(runner.model.state_dict())


def silent():
    torch.manual_seed(0)
    return Silent(DynamicConvNeXt(**CONVNEXT, sparsity=dict(keep_ratio=0.5)))


def test_learning_from_the_teacher_alone(tmp_path):
    logged, _ = train(tmp_path, silent(), TeacherHook(), iters=40, lr=3e-3)
    values = list(logged.values())
    assert sum(values[-5:]) < 0.5 * sum(values[:5])


@pytest.mark.parametrize("ema", [False, True])
def test_a_resumed_student_has_the_same_teacher(tmp_path, ema):
    custom = [dict(type="EMAHook")] if ema else []
    first, hook = Start(), TeacherHook()
    straight, runner = train(tmp_path, silent(), hook, custom=[*custom, first], lr=1e-2)
    content = torch.load(tmp_path / "iter_3.pth", weights_only=False)
    own = set(runner.model.state_dict())
    assert set(content["state_dict"]) == own and set(content["teacher_state_dict"]) == own
    for key, value in content["teacher_state_dict"].items():
        assert torch.equal(value, first.state[key]) and torch.equal(value, hook.parts.state_dict()[key])
    held = sum(len(group["params"]) for group in runner.optim_wrapper.optimizer.param_groups)
    assert held == len(list(runner.model.parameters()))
    resume = dict(resume=tmp_path / "iter_3.pth", custom=custom, lr=1e-2)
    again, _ = train(tmp_path / "again", silent(), TeacherHook(), **resume)
    assert sorted(again) == [3, 4, 5]
    for step, value in again.items():
        assert value == pytest.approx(straight[step], rel=1e-5) and value > 1e-4


def test_resuming_without_a_teacher_is_refused(tmp_path):
    train(tmp_path, silent(), TeacherHook("self"), iters=3)
    assert "teacher_state_dict" not in torch.load(tmp_path / "iter_3.pth", weights_only=False)
    with pytest.raises(ValueError, match="holds no teacher.*`checkpoint`.*load_from"):
        train(tmp_path / "again", silent(), TeacherHook(), resume=tmp_path / "iter_3.pth")


def test_one_teacher_a_training(tmp_path):
    """A second one would overwrite the first one's losses; after the training another may come."""
    with pytest.raises(RuntimeError, match="a TeacherHook adds 'loss_distill' .* already"):
        train(tmp_path / "two", silent(), TeacherHook(), custom=[TeacherHook("self")])
    _, runner = train(tmp_path, silent(), TeacherHook("self"), iters=3)
    TeacherHook("self").attach(runner.model)


def test_a_detector_learns_from_its_dense_twin_on_scenes(scenes, tmp_path):
    """The recipe as a user writes it: dense checkpoint, both hooks, the optimizer's constructor."""
    from mmengine.registry import MODELS, init_default_scope

    dense_cfg = read_config(DENSE_DEMO)
    init_default_scope("mmdet")
    detector = MODELS.build(dense_cfg.model)
    detector.init_weights()
    torch.save({"state_dict": detector.state_dict()}, tmp_path / "dense.pth")
    cfg = read_config(
        DEMO,
        {
            **at(scenes),
            "train_cfg.max_iters": 6,
            "train_cfg.val_interval": 100,
            "default_hooks.checkpoint.interval": 3,
            "default_hooks.logger.interval": 1,
            "log_processor.window_size": 1,
            "param_scheduler": [dict(type="LinearLR", start_factor=0.5, by_epoch=False, begin=0, end=4)],
            "optim_wrapper.constructor": "mmsparse.SparsityOptimWrapperConstructor",
            "optim_wrapper.paramwise_cfg": dict(
                backbone_mult=0.2, freeze_iters=3, norm_decay_mult=0.0, bias_decay_mult=0.0
            ),
            "custom_hooks": [
                dict(type="mmsparse.TeacherHook", teacher=DENSE_DEMO, checkpoint=str(tmp_path / "dense.pth")),
                dict(type="mmsparse.SparsityHook", anneal=None),
            ],
            "load_from": str(tmp_path / "dense.pth"),
        },
    )
    cfg.work_dir = str(tmp_path / "work")
    cfg.visualizer.name = cfg.work_dir  # of one name there is one a process
    cfg.experiment_name = os.path.basename(tmp_path)
    runner = Runner.from_cfg(Config(cfg._cfg_dict))
    seen = []
    runner.model.backbone.register_forward_hook(
        lambda m, args, out: seen.append((args[0], out[-1].detach())) if m.training else None
    )
    runner.train()
    entries = [
        json.loads(line)
        for file in (tmp_path / "work").glob("*/vis_data/scalars.json")
        for line in file.read_text().splitlines()
        if "loss_distill_feat" in line
    ]
    assert len(entries) == len(seen) == 6
    detector.to(seen[0][1].device).eval()
    for entry, (pictures, features) in zip(entries, seen, strict=True):
        with torch.no_grad():
            expected = 0.5 * (features - detector.backbone(pictures)[-1]).square().mean().item()
        assert entry["loss_distill_feat"] == pytest.approx(expected, rel=1e-4) and expected > 1e-4
        assert math.isfinite(entry["loss"])
        assert [entry[f"keep_ratio/{place}"] for place in ("s0b0", "s1b0", "s1b2", "s2b0")] == [0.5] * 4  # exact counts
    start, middle, end = (
        {k: v for k, v in torch.load(path, weights_only=False)["state_dict"].items() if ".router." not in k}
        for path in (tmp_path / "dense.pth", tmp_path / "work/iter_3.pth", tmp_path / "work/iter_6.pth")
    )
    for key in start:
        if key.startswith("backbone."):
            assert torch.equal(start[key], middle[key]), key
    key = "backbone.stages.0.0.pointwise_conv1.weight"
    assert not torch.equal(middle[key], end[key])
    assert not torch.equal(start["neck.convs.0.conv.weight"], middle["neck.convs.0.conv.weight"])
