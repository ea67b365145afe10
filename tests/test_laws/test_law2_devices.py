"""Law 2 on devices: whole networks there = in double precision on a CPU, with the same decisions."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmengine.structures import InstanceData
from network import enliven, ids
from networks import FAMILIES
from replay import replay
from scenes import ROOT
from torch import Tensor, nn

from mmsparse import pop_aux
from mmsparse.apis import find_deciders, record_selections
from mmsparse.cli.building import build_plain, random_pictures
from mmsparse.configs import read_config

DETECTOR = ROOT / "configs/demo/atss_dynamic-convnext-nano_whole-m60_fpn_finetune_scenes.py"
DEVICES = [
    "cpu",  # in single precision, so that this file is run everywhere
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]
on_devices = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """No rounding to TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def check(
    model: nn.Module, device: str, run: Callable[[nn.Module, torch.dtype], list[Tensor]], monkeypatch: Any
) -> None:
    """Evaluation and a training step of ``model``, whose outputs (in training a loss) ``run`` gives."""
    for decision in find_deciders(model):
        decision.collected = True
    there, exact = copy.deepcopy(model).to(device), model.double()
    with torch.no_grad(), record_selections(exact.eval()) as taken:
        expected = run(exact, torch.float64)
    with torch.no_grad(), record_selections(there.eval()) as own:
        run(there, torch.float32)
    same = [(a.keep_mask == b.keep_mask.cpu()).float().mean() for (_, a), (_, b) in zip(taken, own, strict=True)]
    assert all(0 < s.keep_mask.float().mean() < 1 for _, s in taken) and min(same) > 0.98, same  # but for near ties
    replay(monkeypatch, there, [selection for _, selection in taken])
    with torch.no_grad():
        assert_close(run(there, torch.float32), expected)

    replay(monkeypatch, exact, [selection for _, selection in taken])  # training has the same ones
    losses = []
    for part, dtype in ((exact, torch.float64), (there, torch.float32)):
        (loss,) = run(part.train(), dtype)
        regression = [decided.regression for decided in pop_aux(part) if decided.regression is not None]
        assert regression
        (loss + sum(regression)).backward()
        losses.append(loss.detach())
    assert losses[0].isfinite()
    assert_close(losses[1:], losses[:1])
    grads = [[p.grad for p in part.parameters() if p.grad is not None] for part in (there, exact)]
    assert_close(*grads)


def assert_close(actual: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(actual, expected, strict=True):
        error, size = (a.detach().cpu().double() - b).norm(), b.norm()
        assert error <= 1e-3 * size + 1e-7, (error, size)


@on_devices
@pytest.mark.parametrize("network", FAMILIES, ids=ids)
def test_networks(network, device, monkeypatch):
    model = network.alone(network.everywhere)
    x = torch.randn(2, 3, 96, 128)

    def run(part: nn.Module, dtype: torch.dtype) -> list[Tensor]:
        maps = part(x.to(next(part.parameters()).device, dtype))
        return [sum(m.square().mean() for m in maps)] if part.training else list(maps)

    check(model, device, run, monkeypatch)


@on_devices
def test_a_detector(device, monkeypatch):
    cfg = read_config(str(DETECTOR))
    model = build_plain(cfg)
    enliven(model)
    batch = random_pictures(cfg, 2, (96, 128))
    for picture in batch:
        boxes = torch.tensor([[4.0, 4.0, 40.0, 60.0], [50.0, 30.0, 90.0, 90.0]])
        picture["data_samples"].gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1]))

    def run(part: nn.Module, dtype: torch.dtype) -> list[Tensor]:
        inputs = torch.stack([picture["inputs"] for picture in batch])
        inputs = ((inputs - 127.0) / 50.0).to(next(part.parameters()).device, dtype)
        if not part.training:
            return [level for kind in part(inputs, mode="tensor") for level in kind]
        samples = [picture["data_samples"].to(inputs.device) for picture in batch]
        return [part.parse_losses(part(inputs, samples, mode="loss"))[0]]

    check(model, device, run, monkeypatch)
