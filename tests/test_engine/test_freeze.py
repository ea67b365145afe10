"""The time in which pretrained parameters rest: real trainings, resuming, and freezes that would never end."""

import copy
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from optimized import LR, WD, build, convnext
from torch.utils.data import Dataset

from mmsparse.engine import SparsityHook
from mmsparse.engine.optim_constructor import check_groups


class Pictures(Dataset):
    metainfo: dict = {}

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return dict(inputs=torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(index)))


class ScaledCpuOptimWrapper(OptimWrapper):
    """AmpOptimWrapper, which mmengine refuses to build without a GPU."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)

    @contextmanager
    def optim_context(self, model):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield

    def backward(self, loss, **kwargs):
        self.scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.scaler.step(self.optimizer, **kwargs)
        self.scaler.update()


class Watch(Hook):
    """Weights of a backbone, a new and a head parameter after each iteration, and the rates that logs see."""

    NAMES = ("backbone.stages.0.0.pointwise_conv1.weight", "backbone.router.decisions.2_1.scorer.embed.1.weight",
             "head.weight")  # fmt: skip

    def __init__(self):
        self.weights, self.rates = {}, {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        torch.manual_seed(runner.iter)  # what a resumed run draws, too
        self.rates[runner.iter] = [group["lr"] for group in runner.optim_wrapper.optimizer.param_groups]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        parameters = dict(runner.model.named_parameters())
        self.weights[runner.iter] = [parameters[name].detach().clone() for name in self.NAMES]


SCHEDULE = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=3),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False, begin=3, end=8),
]


def train(work_dir, amp=False, by_epoch=False, resume=None, **paramwise):
    torch.manual_seed(0)
    model, watch = convnext(dict(depths=[1, 1, 4, 1], channels=[8, 16, 32, 64]), sparsity={}), Watch()
    loop = dict(type="EpochBasedTrainLoop", max_epochs=4) if by_epoch else dict(type="IterBasedTrainLoop", max_iters=8)
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=Pictures(4 if by_epoch else 16),
        sampler=dict(type="DefaultSampler", shuffle=False),
        collate_fn=dict(type="default_collate"),
    )
    runner = Runner(
        model,
        str(work_dir),
        train_dataloader=loader,
        train_cfg=loop,
        optim_wrapper=dict(
            type=ScaledCpuOptimWrapper if amp else OptimWrapper,
            constructor="mmsparse.SparsityOptimWrapperConstructor",
            optimizer=dict(type="AdamW", lr=LR, weight_decay=WD),
            paramwise_cfg=paramwise,
        ),
        param_scheduler=copy.deepcopy(SCHEDULE),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=2, by_epoch=by_epoch)),
        custom_hooks=[SparsityHook(), watch],
        resume=resume is not None,
        load_from=None if resume is None else str(resume),
        default_scope="mmengine",
        experiment_name=f"{work_dir}-{resume}",
    )
    runner.train()
    return watch, runner


def moved(watch, part):
    """Iterations after which a parameter differs from what it was one iteration before."""
    steps = sorted(watch.weights)
    return [b for a, b in pairwise(steps) if not watch.weights[a][part].equal(watch.weights[b][part])]


@pytest.mark.parametrize("amp", [False, True])
def test_the_backbone_rests_and_then_moves(tmp_path, amp):
    watch, runner = train(tmp_path, amp=amp, freeze_iters=4)
    assert moved(watch, 0) == [4, 5, 6, 7]
    assert moved(watch, 1) == moved(watch, 2) == [1, 2, 3, 4, 5, 6, 7]
    state = runner.optim_wrapper.optimizer.state
    steps = {int(state[p]["step"]) for group in runner.optim_wrapper.optimizer.param_groups for p in group["params"]}
    assert steps == {8}  # moments were collected from the beginning


def test_schedulers_and_logs_see_the_true_rates(tmp_path):
    frozen, _ = train(tmp_path / "frozen", freeze_iters=4)
    free, _ = train(tmp_path / "free")
    assert [rates[0] for rates in frozen.rates.values()] == [rates[0] for rates in free.rates.values()]
    assert frozen.rates[0][0] == pytest.approx(LR * 0.1) and frozen.rates[3][0] == pytest.approx(LR)


def test_freeze_by_epochs(tmp_path):
    watch, _ = train(tmp_path, by_epoch=True, freeze_epochs=2)  # two iterations an epoch
    assert moved(watch, 0) == [4, 5, 6, 7]


@pytest.mark.parametrize("at", [2, 6])
def test_resuming_inside_and_after_the_frozen_phase(tmp_path, at):
    straight, _ = train(tmp_path, freeze_iters=4, backbone_mult=0.2)
    resumed, _ = train(tmp_path / "again", freeze_iters=4, backbone_mult=0.2, resume=tmp_path / f"iter_{at}.pth")
    assert sorted(resumed.weights) == list(range(at, 8))
    for step, weights in resumed.weights.items():
        assert resumed.rates[step] == straight.rates[step]
        for mine, theirs in zip(weights, straight.weights[step], strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    "freeze, by_epoch, sentence",
    [
        (
            dict(freeze_epochs=5),
            True,
            "`freeze_epochs`: 5 would freeze the backbone for the whole training of 4 epochs",
        ),
        (dict(freeze_iters=8), False, "`freeze_iters`: 8 would freeze the backbone for the whole training of 8 iters"),
        (dict(freeze_epochs=5), False, "`freeze_epochs`: got 5, but this training counts iterations .*freeze_iters"),
    ],
)
def test_a_freeze_without_end_is_refused(tmp_path, freeze, by_epoch, sentence):
    with pytest.raises(ValueError, match=sentence):
        train(tmp_path, by_epoch=by_epoch, **freeze)


def test_a_freeze_in_iterations_without_end_is_refused_before_a_training_by_epochs(tmp_path, monkeypatch):
    monkeypatch.setattr(Pictures, "__getitem__", lambda *_: pytest.fail("a picture was read"))
    with pytest.raises(ValueError, match="`freeze_iters`: 8 would freeze the backbone for the whole training of 8 it"):
        train(tmp_path, by_epoch=True, freeze_iters=8)


EPOCHS, ITERS = dict(type="EpochBasedTrainLoop", max_epochs=4), dict(type="IterBasedTrainLoop", max_iters=8)


@pytest.mark.parametrize(
    "freeze, train_cfg, sentence",
    [
        (
            dict(freeze_epochs=4),
            EPOCHS,
            "`freeze_epochs`: 4 would freeze .* whole training of 4 epochs. Give a smaller",
        ),
        (dict(freeze_iters=8), ITERS, "`freeze_iters`: 8 would freeze .* whole training of 8 iters. Give a smaller"),
        (dict(freeze_epochs=1), ITERS, r"`freeze_epochs`: got 1, but this training counts iterations \(train_cfg=.*8"),
    ],
)
def test_a_freeze_without_end_is_seen_in_the_config(freeze, train_cfg, sentence):
    wrapper = dict(constructor="mmsparse.SparsityOptimWrapperConstructor", paramwise_cfg=freeze)
    with pytest.raises(ValueError, match=sentence):
        check_groups(dict(optim_wrapper=wrapper, train_cfg=train_cfg))
    check_groups(dict(optim_wrapper=dict(wrapper, constructor="MyConstructor"), train_cfg=train_cfg))


@pytest.mark.parametrize("freeze, train_cfg", [(dict(freeze_epochs=3), EPOCHS), (dict(freeze_iters=7), ITERS)])
def test_a_freeze_that_ends_is_fine(freeze, train_cfg):
    wrapper = dict(constructor="SparsityOptimWrapperConstructor", paramwise_cfg=freeze)
    check_groups(dict(optim_wrapper=wrapper, train_cfg=train_cfg))
    check_groups(dict(optim_wrapper=dict(wrapper, paramwise_cfg=dict(freeze_iters=9)), train_cfg=EPOCHS))


def test_a_freeze_needs_a_runner(monkeypatch):
    wrapper = build(convnext(sparsity={}), freeze_iters=2)
    monkeypatch.setattr(wrapper, "message_hub", MessageHub("fresh"))
    with pytest.raises(ValueError, match="`freeze_iters`.*Runner"):
        wrapper.step()
