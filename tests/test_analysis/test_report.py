"""Latencies beside the dense twin, on a clock that only the networks move."""

import pytest
import torch
from torch import nn

from mmsparse.analysis import latency, report
from mmsparse.analysis.macs import Macs
from mmsparse.analysis.report import PictureMacs, macs_table
from mmsparse.apis import dense_twin, find_dials
from mmsparse.models import DynamicConvNeXt


class Clock:
    """Stands still, unless a backbone says how long it took. Notes when it is read."""

    def __init__(self):
        self.now, self.events = 0.0, []

    def advance(self, seconds):
        self.now += seconds

    def perf_counter(self):
        self.events.append("read")
        return self.now


class Net(nn.Module):
    """A dynamic backbone that takes the seconds it is told, by what it runs as, and a head of one second."""

    def __init__(self, clock, seconds):
        super().__init__()
        arch = dict(depths=[1, 1, 3, 1], channels=[8, 16, 16, 32])
        sparsity = dict(places=[(2, 1)], keep_ratio=[0.5])
        self.backbone = DynamicConvNeXt(arch, gap_before_final_norm=False, sparsity=sparsity)

        def pass_time(backbone, args, output):
            layout = "channels-last" if args[0].is_contiguous(memory_format=torch.channels_last) else "contiguous"
            clock.advance(seconds["routed" if find_dials(backbone)[0].keep_ratio < 1.0 else layout])

        self.backbone.register_forward_hook(pass_time)
        self.rest = lambda: clock.advance(1.0)

    def forward(self, inputs, data_samples=None, mode="predict"):
        x = self.backbone(inputs)[-1]
        self.rest()
        return x


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(latency, "time", made)
    return made


def net(clock, **seconds):
    return Net(clock, seconds).eval()


def test_switching_to_the_dense_twin_takes_no_time(clock, monkeypatch):
    def switch(model):
        clock.events.append("switch")
        return dense_twin(model)

    monkeypatch.setattr(report, "dense_twin", switch)
    model = net(clock, **{"contiguous": 3.0, "channels-last": 3.0, "routed": 2.0})
    report.time_beside_dense(model, dict(inputs=torch.randn(1, 3, 64, 64)), rounds=2, warmup=1)
    reads = 0
    for event in clock.events:
        reads += event == "read"
        assert event == "read" or reads % 2 == 0  # between a start and its stop nothing is switched
    assert "switch" in clock.events


@pytest.mark.parametrize("contiguous, channels_last", [(3.0, 2.5), (2.5, 3.0)])
def test_the_dense_network_runs_in_the_layout_it_is_faster_in(clock, contiguous, channels_last):
    model = net(clock, **{"contiguous": contiguous, "channels-last": channels_last, "routed": 2.0})
    times = report.time_beside_dense(model, dict(inputs=torch.randn(1, 3, 64, 64)), rounds=2, warmup=1)
    layout = "channels-last" if channels_last < contiguous else "contiguous"
    for part, head in (("backbone", 0.0), ("whole", 1.0)):
        assert times[part].layout == layout
        assert times[part].dense.median == 1e3 * (2.5 + head) and times[part].routed.median == 1e3 * (2.0 + head)
        assert times[part].routed.speedup == pytest.approx((2.5 + head) / (2.0 + head))
    assert find_dials(model)[0].keep_ratio == 0.5
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_a_network_that_cannot_run_channels_last(clock):
    model = net(clock, **{"contiguous": 3.0, "channels-last": 2.5, "routed": 2.0})
    model.backbone.register_forward_hook(lambda backbone, args, outs: args[0].view(-1))
    times = report.time_beside_dense(model, dict(inputs=torch.randn(1, 3, 64, 64)), rounds=2, warmup=1)
    assert times["whole"].layout == "contiguous" and times["whole"].dense.median == 4e3


def test_the_table_tells_spread_and_what_one_picture_in_twenty_exceeds():
    executed = [Macs(total=n * 10**9, backbone=10**9) for n in range(2, 23)]  # of the total 2 to 22 G
    macs = PictureMacs([Macs(total=24 * 10**9, backbone=2 * 10**9)] * 21, executed)
    assert macs.mean("executed", "total") == 12e9 and macs.p95("executed", "total") == 21e9
    head, backbone, *_, total, _ = macs_table(macs).splitlines()
    assert head.split() == ["GMACs", "dense", "executed", "+-", "p95", "left"]
    assert backbone.split() == ["backbone", "2.000", "1.000", "0.000", "1.000", "50.0%"]
    assert total.split() == ["total", "24.000", "12.000", "6.055", "21.000", "50.0%"]
