"""Networks of averaged weights keep to their budgets: their thresholds are of their own scores."""

import copy

import pytest
import torch
from mmdet.engine.hooks import MeanTeacherHook
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from optimized import convnext
from torch.utils.data import Dataset

from mmsparse.apis import find_deciders, record_selections
from mmsparse.engine import SparsityHook

SPARSITY = dict(keep_ratio=[0.5, 0.5], places=[(2, 1), (2, 2)], selector=dict(type="ThresholdSelector", momentum=0.5))

DRIFT = 15.0  # a third of the scores' spread


class Pictures(Dataset):
    metainfo: dict = {}

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return dict(inputs=torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(index)))


def network():
    torch.manual_seed(0)
    model = convnext(dict(depths=[1, 1, 4, 1], channels=[8, 16, 32, 64]), sparsity=SPARSITY)
    for decision in find_deciders(model):  # scores of some spread
        for parameter in decision.scorer.parameters():
            torch.nn.init.normal_(parameter)
    model.init_weights = lambda: None  # the runner's
    return model


class Semi(BaseModel):
    """A student, and a teacher that is averaged from it and looks at every batch, as in mmdet."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = network(), network()

    def forward(self, inputs, data_samples=None, mode="tensor"):
        if mode != "loss":
            return self.teacher(inputs, mode=mode)
        self.teacher.eval()
        with torch.no_grad():
            self.teacher(inputs)
        return self.student(inputs, mode=mode)


class Drift(Hook):
    """Scores that grow in each iteration, so that those of averaged weights stay behind."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for decision in find_deciders(getattr(runner.model, "student", runner.model)):
            *_, bias = (parameter for name, parameter in decision.named_parameters() if name.endswith("bias"))
            bias.data += DRIFT


class Kept(Hook):
    """The mean keep ratio of each place in a validation, and the thresholds of the model around it."""

    def __init__(self):
        self.ratios, self.thresholds = {}, []

    def _note(self, runner):
        self.thresholds.append(copy.deepcopy(quantiles(runner.model.state_dict())))

    def before_val(self, runner):
        self._note(runner)

    def before_val_epoch(self, runner):
        self._recorder = record_selections(runner.model)
        self._taken = self._recorder.__enter__()

    def after_val_epoch(self, runner, metrics=None):
        self._recorder.__exit__(None, None, None)
        self.ratios = kept(self._taken)

    def after_val(self, runner):
        self._note(runner)


def kept(taken):
    found = {}
    for name, selection in taken:
        found.setdefault(name, []).append(selection.keep_mask.float().mean())
    return {name: torch.stack(values).mean().item() for name, values in found.items()}


def quantiles(state):
    return {key: value for key, value in state.items() if key.endswith("quantiles")}


def train(work_dir, model, hook):
    watch = Kept()
    loader = dict(
        batch_size=4, num_workers=0, dataset=Pictures(), sampler=dict(type="DefaultSampler", shuffle=False),
        collate_fn=dict(type="default_collate"),
    )  # fmt: skip
    runner = Runner(
        model,
        str(work_dir),
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=Evaluator([]),
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=12, val_interval=12),
        val_cfg=dict(),
        optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-4)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=12, by_epoch=False)),
        custom_hooks=[SparsityHook(anneal=None), Drift(), hook, watch],
        default_scope="mmengine",
        experiment_name=str(work_dir),
    )
    runner.train()
    return watch, runner


def assert_at_budget(ratios, tolerance):
    assert ratios == pytest.approx({"s2b1": 0.5, "s2b2": 0.5}, abs=tolerance)


@pytest.mark.parametrize("update_buffers", [False, True])
def test_averaged_weights_are_evaluated_and_saved_at_their_budget(tmp_path, update_buffers):
    watch, runner = train(tmp_path, network(), dict(type="EMAHook", momentum=0.02, update_buffers=update_buffers))
    assert_at_budget(watch.ratios, 0.03)
    before, after = watch.thresholds
    raw = quantiles(runner.model.state_dict())
    content = torch.load(tmp_path / "iter_12.pth", weights_only=False)
    for key, value in raw.items():  # training goes on, and is resumed, with its own
        assert torch.equal(before[key], value) and torch.equal(after[key], value)
        assert torch.equal(content["ema_state_dict"][f"module.{key}"], value)
    averaged = network().eval()
    averaged.load_state_dict(content["state_dict"])
    with torch.no_grad(), record_selections(averaged) as taken:
        for index in range(len(Pictures())):
            averaged(Pictures()[index]["inputs"][None])
    assert_at_budget(kept(taken), 0.03)


def test_a_mean_teacher_is_evaluated_at_its_budget(tmp_path):
    watch, runner = train(tmp_path, Semi(), MeanTeacherHook(momentum=0.02))
    assert_at_budget(watch.ratios, 0.1)  # its estimate runs a little behind, as a student's does
    selectors = [decision.selector for decision in find_deciders(runner.model.teacher)]
    assert [selector.num_updates.item() for selector in selectors] == [12, 12]
