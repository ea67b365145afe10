"""Law 11: nothing of a call stays on a module; threads may share a model."""

import copy
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from network import ids
from networks import LIGHT
from small_networks import DETECTOR, SEGMENTER, pictures
from torch import Tensor, nn

import mmsparse
from mmsparse.apis import get_keep_ratio, record_selections
from mmsparse.cli.building import build_model
from mmsparse.models import DynamicSwin


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything that hangs on the modules, in depth; tensors by their values."""
    return {name: _frozen(vars(module), {id(model)}) for name, module in model.named_modules()}


def _frozen(value: Any, seen: set[int]) -> Any:
    if isinstance(value, Tensor):
        return (id(value), tuple(value.shape), value.detach().clone().flatten().tolist())
    if isinstance(value, nn.Module) or callable(value):
        return id(value)
    if isinstance(value, str | int | float | bool | None | torch.dtype):
        return value
    if id(value) in seen:
        return "seen"
    seen = seen | {id(value)}
    if isinstance(value, dict):
        return {str(key): _frozen(item, seen) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_frozen(item, seen) for item in value]
    if is_dataclass(value):
        return {field.name: _frozen(getattr(value, field.name), seen) for field in fields(value)}
    return _frozen(vars(value), seen) if hasattr(value, "__dict__") else repr(value)


@pytest.mark.supports("eager")
@pytest.mark.parametrize("network", LIGHT, ids=ids)
def test_an_evaluation_leaves_every_module_as_it_was(network):
    model = network.dynamic(sparsity=network.everywhere).eval()
    before = state_of(model)
    with torch.no_grad():
        model(torch.randn(2, 3, 70, 90) if network.name != "slim" else torch.randn(2, 3, 224, 224))
    assert state_of(model) == before


def test_an_evaluation_of_one_window_leaves_the_shift_as_it_was():
    model = DynamicSwin(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), shift_one_window=False).eval()
    before = state_of(model)
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 96))
    assert state_of(model) == before


@pytest.mark.parametrize("cfg", [DETECTOR, SEGMENTER], ids=["detector", "segmenter"])
def test_a_test_step_leaves_every_module_as_it_was(cfg):
    model = build_model(cfg)
    batch = pictures(cfg, (70, 100), (70, 100))
    before = state_of(model)
    model.test_step(batch)
    assert state_of(model) == before


SIZES = [(70, 100), (128, 150), (96, 64), (40, 160)]


def calls_of(cfg):
    """Batches of several sizes, padded by different amounts, each with budgets."""
    pairs = [(0, 1), (2, 0), (3, 2), (1, 1)] if cfg is DETECTOR else [(0, 0), (1, 1), (2, 2), (3, 3)]
    parts = dict(backbone=1.0, head=0.7)
    batches = [pictures(cfg, SIZES[a], SIZES[b]) for a, b in pairs]
    return [(batch, budget) for batch in batches for budget in (None, 0.3, parts)]


def results_of(model, batch, budget):
    """The predictions of a call, at the model's own budget or another one; the batch stays as it is."""
    named = model if isinstance(budget, dict) else None
    with nullcontext() if budget is None else mmsparse.budget(budget, named), torch.no_grad():
        found = model.test_step(copy.deepcopy(batch))
    return [sample.pred_instances.bboxes if "pred_instances" in sample else sample.seg_logits.data for sample in found]


@pytest.mark.parametrize("cfg", [DETECTOR, SEGMENTER], ids=["detector", "segmenter"])
def test_threads_share_a_model(cfg):
    """Six runs of each of twelve calls in eight threads: 72 runs that differ in size, padding and budget."""
    model = build_model(cfg)
    calls = calls_of(cfg)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for all runs: sums of several threads may be taken in another order
    alone = [results_of(model, *call) for call in calls]
    assert not torch.equal(alone[0][0], alone[1][0])  # budgets matter
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda call: results_of(model, *call), calls * 6))
    torch.set_num_threads(threads)
    for mine, expected in zip(found, alone * 6, strict=True):
        for one, other in zip(mine, expected, strict=True):
            assert torch.equal(one, other)


def test_a_budget_is_of_one_call():
    model = build_model(DETECTOR)
    own = get_keep_ratio(model)
    before = state_of(model)
    with mmsparse.budget(0.9):
        assert set(get_keep_ratio(model).values()) == {0.9}
        with mmsparse.budget(dict(neck=0.2), model):
            inner = get_keep_ratio(model)
            assert {inner[name] for name in inner if name.startswith("neck")} == {0.2}
            assert {inner[name] for name in inner if not name.startswith("neck")} == {0.9}
    assert get_keep_ratio(model) == own and state_of(model) == before
    with pytest.raises(ValueError, match=r"`keep_ratio` to be in \(0, 1\], but got 1.5"), mmsparse.budget(1.5):
        pass
    with pytest.raises(TypeError, match="of several parts or places needs the model"), mmsparse.budget([0.2]):
        pass


def test_a_budget_of_one_thread_is_not_another_ones():
    model = build_model(DETECTOR)
    with mmsparse.budget(0.9), ThreadPoolExecutor(1) as pool:
        assert pool.submit(get_keep_ratio, model).result() != get_keep_ratio(model)


def test_what_is_recorded_is_of_one_thread():
    model = build_model(DETECTOR)
    batch = pictures(DETECTOR, (70, 100))
    with record_selections(model) as taken, ThreadPoolExecutor(1) as pool:
        pool.submit(model.test_step, batch).result()
    assert not taken
