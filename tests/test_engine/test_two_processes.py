"""Ranks that meet only where they must: pictures, and numbers of forwards, may differ between them."""

from types import SimpleNamespace

import torch
from mmengine.hooks import EMAHook
from optimized import Model, convnext
from processes import in_two_processes
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmsparse.apis import find_deciders, set_keep_ratio
from mmsparse.engine import AveragedThresholdsHook, SparsityHook, share_thresholds
from mmsparse.models import DynamicSwin
from mmsparse.sparsity import Geometry, ThresholdSelector

ARCH = dict(depths=[1, 1, 4, 1], channels=[8, 16, 32, 64])


def train(rank, model, steps, before_step=lambda step: None):
    """A few steps on each rank's own pictures; the weights end the same everywhere."""
    hook = SparsityHook(anneal=None)
    hook.attach(model.train())
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(rank)
    for step in range(steps):
        before_step(step)
        losses = wrapped(torch.randn(2, 3, 64, 64, generator=generator), mode="loss")
        optimizer.zero_grad()
        sum(value for name, value in losses.items() if "loss" in name).backward()
        optimizer.step()
        hook.after_train_iter(SimpleNamespace(model=wrapped), step)
    for name, value in model.state_dict().items():
        assert name.endswith("num_updates") or same(value), name


def same(value):
    both = [torch.empty_like(value) for _ in range(2)]
    torch.distributed.all_gather(both, value.detach().contiguous())
    return torch.equal(*both)


def skip_windows(rank):
    torch.manual_seed(0)
    backbone = DynamicSwin(
        embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), window_size=2, out_indices=(3,),
        sparsity=dict(places=[(2, 0), (2, 1)], keep_ratio=[0.5, 0.5], skip_windows=True),
    )  # fmt: skip
    model = Model(backbone, 128)
    if rank == 1:  # as a threshold may do in an empty picture
        set_keep_ratio(model, [0.01, 0.01])
    attention = backbone.stages[2].blocks[0].attn
    before = attention.w_msa.qkv.weight.clone()
    train(rank, model, steps=2)
    assert not torch.equal(attention.w_msa.qkv.weight, before)


def test_a_rank_may_skip_all_windows(tmp_path):
    in_two_processes(skip_windows, tmp_path)


def more_forwards(rank):
    torch.manual_seed(0)
    model = convnext(ARCH, sparsity=dict(selector=dict(type="ThresholdSelector")))

    def look(step):
        if rank == 0:
            with torch.no_grad():
                model(torch.randn(1, 3, 64, 64))

    train(rank, model, steps=2, before_step=look)


def test_a_rank_may_look_more_often(tmp_path):
    in_two_processes(more_forwards, tmp_path)


def share(rank):
    """Two places: both ranks have seen scores at the first, rank 1 alone at the second."""
    first, second, third = places = nn.ModuleList(ThresholdSelector() for _ in range(3)).train()
    first(torch.arange(65.0).view(1, 65) + 10 * rank, Geometry((5, 13)), 0.5)
    if rank == 1:
        for _ in range(2):
            second(torch.arange(65.0).view(1, 65), Geometry((5, 13)), 0.5)
    share_thresholds(places)
    assert torch.equal(first.quantiles, torch.arange(65.0) + 5) and first.num_updates == 1
    assert torch.equal(second.quantiles, torch.arange(65.0)) and second.num_updates == 1 + rank
    assert not third.quantiles.any() and third.num_updates == 0
    second(torch.full((1, 65), 100.0), Geometry((5, 13)), 0.5)  # one step of many, on the rank that had none as well
    assert second.quantiles[0] == 2.0


def test_thresholds_are_those_of_all_ranks(tmp_path):
    in_two_processes(share, tmp_path)


def evaluate_averaged(rank):
    torch.manual_seed(0)
    model = convnext(ARCH, sparsity=dict(selector=dict(type="ThresholdSelector")))
    runner = SimpleNamespace(model=model, hooks=[EMAHook(), AveragedThresholdsHook()])
    averaging, hook = runner.hooks
    averaging.before_run(runner)
    hook.before_train(runner)
    pictures = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(rank))
    hook.after_train_iter(runner, 0, dict(inputs=pictures))
    thresholds = [decision.selector for decision in find_deciders(model)]
    hook.before_val(runner)
    assert all(selector.quantiles.any() and same(selector.quantiles) for selector in thresholds)
    hook.after_val_epoch(runner)
    assert not any(selector.quantiles.any() for selector in thresholds)


def test_averaged_weights_are_evaluated_with_the_same_thresholds_everywhere(tmp_path):
    in_two_processes(evaluate_averaged, tmp_path)
