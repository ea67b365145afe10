"""Budgets that take turns, in real trainings by epochs and by iterations."""

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner

from mmsparse.apis import find_deciders
from mmsparse.engine import ElasticHook, SparsityHook
from mmsparse.models import DynamicConvNeXt, DynamicFPN

OWN = dict(backbone=[0.4], neck=[0.3])


class Toy(BaseModel):
    """A backbone and a neck, and what each step's budgets were."""

    def __init__(self):
        super().__init__()
        some = dict(out_indices=[2, 3], gap_before_final_norm=False)
        self.backbone = DynamicConvNeXt("atto", **some, sparsity=dict(places=[(2, 1)], keep_ratio=OWN["backbone"]))
        self.neck = DynamicFPN([160, 320], 8, num_outs=2, sparsity=dict(keep_ratio=0.3, levels=1, tile=1))
        self.seen = []

    def forward(self, inputs, data_samples=None, mode="tensor"):
        self.seen.append((mode, tuple(decision.keep_ratio for decision in find_deciders(self))))
        maps = self.neck(self.backbone(inputs))
        return dict(loss=sum(x.square().mean() for x in maps)) if mode == "loss" else maps


class Nothing(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {}


def train(folder, hook, loop, resume=False):
    """Four steps an epoch."""
    pictures = [dict(inputs=torch.randn(3, 64, 64)) for _ in range(4)]
    loader = dict(dataset=pictures, batch_size=1, sampler=dict(type="DefaultSampler", shuffle=False))
    loader["collate_fn"] = dict(type="default_collate")
    model = Toy()
    runner = Runner(
        model,
        work_dir=str(folder),
        train_dataloader=loader,
        train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=1e-3)),
        val_dataloader=dict(**loader),
        val_cfg=dict(),
        val_evaluator=[Nothing()],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=3, by_epoch=False)),
        custom_hooks=[SparsityHook(), hook],
        resume=resume,
        experiment_name=f"{folder.name}{resume}",
        visualizer=dict(type="Visualizer", name=f"{folder}{resume}"),
    )
    runner.train()
    return model


def budgets(model, mode):
    return [ratios for seen, ratios in model.seen if seen == mode]


def test_by_epoch_with_an_evaluation_between(tmp_path):
    hook = ElasticHook([1.0, dict(backbone=0.5, neck=0.2)])
    model = train(tmp_path, hook, dict(by_epoch=True, max_epochs=3, val_interval=1))
    assert budgets(model, "loss") == [(1.0, 1.0)] * 4 + [(0.5, 0.2)] * 4 + [(1.0, 1.0)] * 4
    assert set(budgets(model, "predict")) == {(0.4, 0.3)}
    assert [d.keep_ratio for d in find_deciders(model)] == [0.4, 0.3]


def test_by_iteration_and_resumed(tmp_path):
    loop = dict(type="IterBasedTrainLoop", max_iters=6, val_interval=100)
    turns = [(ratio, ratio) for ratio in (0.9, 0.9, 0.6, 0.6, 0.3, 0.3)]
    model = train(tmp_path, ElasticHook([0.9, 0.6, 0.3], interval=2, by_epoch=False), loop)
    assert budgets(model, "loss") == turns
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_3.pth"))
    model = train(tmp_path, ElasticHook([0.9, 0.6, 0.3], interval=2, by_epoch=False), loop, resume=True)
    assert budgets(model, "loss") == turns[3:]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            dict(keep_ratios=[0.5]),
            r"`keep_ratios` to be two or more budgets such as \[1.0, 0.7, 0.5\], but got \[0.5\]",
        ),
        (dict(keep_ratios="0.5"), "`keep_ratios` to be two or more"),
        (dict(keep_ratios=[0.5, 1.0], interval=0), "`interval` to be a positive whole number, but got 0"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        ElasticHook(**arguments)


def test_what_does_not_fit_is_told_before_the_training(tmp_path):
    loop = dict(type="IterBasedTrainLoop", max_iters=6, val_interval=100)
    with pytest.raises(ValueError, match="this training counts iterations. Set by_epoch=False"):
        train(tmp_path, ElasticHook([1.0, 0.5]), loop)
    with pytest.raises(ValueError, match=r"in \(0, 1\], but got 1.5"):
        train(tmp_path / "b", ElasticHook([1.0, 1.5], by_epoch=False), loop)
