"""Law 10, of ``torch.compile``: no graph break, eager's results and decisions, and never those of another call."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import Lock

import pytest
import torch
from network import ids
from small_networks import DETECTOR, SEGMENTER, pictures
from test_law10_exports import EXPORTED, NOT_COMPILED, SIZE, Watched, dynamic, flat
from torch import Tensor, nn

import mmsparse
from mmsparse.apis import dense_twin
from mmsparse.cli.building import build_model
from mmsparse.deploy.program import Program
from mmsparse.models import DynamicFPN
from mmsparse.sparsity import real_sizes

OFTEN = ["swin-micro-mmseg", "vit-micro-featmap-cumulative", "UPerHead"]  # the detector below has the others' kinds
PARTS = [
    pytest.param(n, id=ids(n), marks=[] if n.name in OFTEN else pytest.mark.slow)
    for n in EXPORTED
    if n.name not in NOT_COMPILED
]


class Compiled:
    """A network's whole graph, run by PyTorch's own kernels, and how often it was made."""

    def __init__(self, network: nn.Module) -> None:
        torch.compiler.reset()
        self.network, self.times = network, 0
        self.call = torch.compile(network, fullgraph=True, dynamic=False, backend=self._take)

    def _take(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        self.times += 1
        return graph

    def agrees(self, *args: object) -> bool:
        with torch.no_grad():
            expected, found = flat(self.network(*args)), flat(self.call(*args))
        return all(map(torch.equal, found, expected)) and len(found) == len(expected)


def neck() -> nn.Module:
    return DynamicFPN([8], 8, 1, sparsity=dict(keep_ratio=0.5, tile=2)).eval()


@pytest.mark.supports("compile")
@pytest.mark.parametrize("network", PARTS)
def test_compiled_is_eager(network):
    assert Compiled(Watched(dynamic(network))).agrees(torch.randn(1, 3, *SIZE))


@pytest.mark.parametrize(
    "cfg", [DETECTOR, pytest.param(SEGMENTER, marks=pytest.mark.slow)], ids=["detector", "segmenter"]
)
def test_a_whole_network(cfg):
    compiled, x = Compiled(Program(build_model(cfg))), torch.randn(1, 3, *SIZE)
    assert compiled.agrees(x, torch.tensor([[40, 60]])) and compiled.agrees(x, torch.tensor([[64, 50]]))
    assert compiled.times == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_what_the_compiler_makes_of_a_whole_network():
    program, x = Program(build_model(DETECTOR)), torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        for found, expected in zip(torch.compile(program, fullgraph=True, dynamic=False)(x), program(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_each_call_has_its_own_budget_and_sizes():
    compiled, x = Compiled(neck()), [torch.randn(2, 8, 16, 24)]
    calls = [
        nullcontext,
        lambda: mmsparse.budget(0.25),
        lambda: mmsparse.budget(0.75, compiled.network),
        lambda: dense_twin(compiled.network),
        lambda: real_sizes([(64, 48), (32, 96)], (64, 96)),
        lambda: real_sizes([(64, 48), (48, 96)], (64, 96)),
    ]
    for _ in range(2):
        for call in calls:
            with call():
                assert compiled.agrees(x)
    assert compiled.times == len(calls)
    mmsparse.set_keep_ratio(compiled.network, 0.125)
    assert compiled.agrees(x)


def test_threads_share_what_is_compiled():
    """In turn: PyTorch 2.11 steps over what it has compiled, rarely, where another thread looks at the same moment."""
    compiled, x, turn = Compiled(neck()), [torch.randn(1, 8, 16, 24)], Lock()

    def agrees(keep_ratio: float, at: AbstractContextManager) -> bool:
        with mmsparse.budget(keep_ratio), at:
            return compiled.agrees(x)

    assert all(agrees(ratio, turn) for ratio in (0.25, 0.5, 0.75))
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(agrees, [0.25, 0.5, 0.75] * 8, [turn] * 24))
        assert compiled.times == 3
        assert all(pool.map(agrees, [0.25, 0.5, 0.75] * 8, [nullcontext()] * 24))


def test_a_backbone_in_a_model_that_knows_padding():
    """The hook in front of the backbone is compiled, too."""
    model = build_model(DETECTOR)
    batch = pictures(DETECTOR, (70, 100), (128, 90))
    expected = model.test_step(dict(batch))
    compiled = Compiled(model.backbone)
    model.backbone = compiled.call
    for found, wanted in zip(model.test_step(dict(batch)), expected, strict=True):
        assert torch.equal(found.pred_instances.bboxes, wanted.pred_instances.bboxes)
    assert compiled.times == 1
