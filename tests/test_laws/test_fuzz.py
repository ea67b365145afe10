"""Laws 1, 2, 4 and 10 for random small networks: ours against stock, packed against masked, trained, alone, exported.

``pytest tests/test_laws/test_fuzz.py --fuzz 1000`` runs so many of each family, drawn anew each time.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import FAMILIES, Case
from frozen import watch_margins
from hypothesis import HealthCheck, Phase, assume, given, settings
from test_law10_exports import Watched, static_program
from torch import Tensor, nn

from mmsparse import ignore_padding, pop_aux
from mmsparse.apis import dense_twin, find_deciders, record_selections
from mmsparse.deploy.check import check_exportable
from mmsparse.sparsity import num_keep

EXAMPLES = 10  # of each family, the same in every run
EXPORTS = 2  # which take longer
CLOSE = 1e-9  # in double precision, of the largest magnitude
MARGIN = 1e-6  # scores are compared in single precision


class Model(nn.Module):
    """A network as a library calls it: with data samples."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        ignore_padding(self)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> tuple[Tensor, ...]:
        return tuple(self.network(inputs))


@pytest.mark.parametrize("family", FAMILIES)
def test_random_networks(family: str, request: pytest.FixtureRequest):
    fuzz(family, check, request.config.getoption("--fuzz"), EXAMPLES)


@pytest.mark.parametrize("family", FAMILIES)
def test_random_networks_exported(family: str, request: pytest.FixtureRequest):
    fuzz(family, exported_is_eager, request.config.getoption("--fuzz"), EXPORTS)


def fuzz(family: str, law: Callable[[Case], None], count: int, usually: int) -> None:
    @settings(
        max_examples=count or usually,
        derandomize=not count,
        database=None,
        deadline=None,
        print_blob=True,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(FAMILIES[family])
    def run(case: Case) -> None:
        law(case)

    run()


def check(case: Case) -> None:
    stock, dynamic = case.pair()
    model, x = Model(dynamic), case.pictures()
    samples = [SimpleNamespace(metainfo=dict(img_shape=size, pad_shape=case.padded)) for size in case.sizes]
    everything_is_dense(case, stock, model, x, samples)
    trained = training_is_masked(case, stock, model, x, samples)
    evaluation_is_masked(case, stock, model, x, samples, *trained)
    alone_is_together(model, x, samples)


def everything_is_dense(case: Case, stock: nn.Module, model: Model, x: Tensor, samples: list[Any]) -> None:
    """Law 1: keep everything = the stock network; evaluation takes a short cut, training the routed code."""
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = tuple(stock(theirs))
    with dense_twin(model):
        close(model.eval()(x, samples), expected, "everything kept, evaluation")
        actual = model.train()(mine, samples)
    pop_aux(model)
    close(actual, expected, "everything kept, training")
    compare_gradients(case, (actual, model.network, mine), (expected, stock, theirs))


def training_is_masked(case: Case, stock: nn.Module, model: Model, x: Tensor, samples: list[Any]) -> Any:
    """Training with whatever it selects = both paths on all locations, and masks."""
    for decision in find_deciders(model):
        decision.progress = case.progress
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    with record_selections(model) as taken:
        trained = model.train()(mine, samples)
    pop_aux(model)
    masks = {name: selection.keep_mask for name, selection in taken}
    expected, plain = reference(case, stock, model, theirs, masks)
    close(trained, expected, "training against masks")
    compare_gradients(case, (trained, model.network, mine), (expected, plain, theirs))
    return [t.detach() for t in trained], [selection for _, selection in taken]


def evaluation_is_masked(
    case: Case, stock: nn.Module, model: Model, x: Tensor, samples: list[Any], trained: Any, selections: list[Any]
) -> None:
    """Packed rows = masks, with the selections of the training forward (law 2) and with its own."""
    model.eval()
    with torch.no_grad():
        with record_selections(model) as taken:
            packed = model(x, samples)
        budgets_are_of_real_locations(case, model, taken)
        masks = {name: selection.keep_mask for name, selection in taken}
        close(packed, reference(case, stock, model, x, masks)[0], "packed against masked")
        decisions = find_deciders(model)
        for decision, selection in zip(decisions, selections, strict=True):
            decision.forward = partial(_as_before, replace(selection, gate=None))  # its counts are known, too
        close(model(x, samples), trained, "evaluation against training")
        for decision in decisions:
            del decision.forward


def budgets_are_of_real_locations(case: Case, model: Model, taken: list[Any]) -> None:
    """Every picture keeps the rounded fraction of its own real locations, and no padding."""
    ratios = {decision.name: decision.keep_ratio for decision in find_deciders(model)}
    if case.sparsity["selector"]["type"] == "ThresholdSelector":
        return  # no exact counts
    for name, selection in taken:
        if ratios[name] < 1:
            whole, tile = selection.geometry.size, selection.geometry.tile
            for mask, size in zip(selection.keep_mask, case.sizes, strict=True):
                locations = (math.ceil(n * g / p) for n, g, p in zip(size, whole, case.padded, strict=True))
                high, wide = (math.ceil(n / tile) for n in locations)
                real = mask.view(selection.grid)[:high, :wide].sum()
                assert mask.sum() == real == num_keep(ratios[name], high * wide), name


def _as_before(selection: Any, *_: Any, **__: Any) -> Any:
    return selection


def alone_is_together(model: Model, x: Tensor, samples: list[Any]) -> None:
    """Law 4: a picture's result does not depend on its batch mates."""
    with torch.no_grad(), watch_margins() as margins:
        together = model(x, samples)
        for i in range(len(x)):
            alone = model(x[i : i + 1], samples[i : i + 1])
            if min(margins, default=1.0) > MARGIN:
                close(alone, [t[i : i + 1] for t in together], f"picture {i} alone")


def exported_is_eager(case: Case) -> None:
    """Law 10: the static form that exporters get gives the results and decisions of the packed one, or is refused."""
    model, x = Watched(case.pair()[1].eval()), case.pictures()[:1]
    try:
        check_exportable(model)
    except ValueError:
        assume(False)
    with torch.no_grad():
        with watch_margins() as margins:
            expected = model(x)
        assume(min(margins, default=1.0) > MARGIN)
        found = static_program(model, x).module()(x)
    for actual, wanted in zip(found, expected, strict=True):
        assert actual.dtype == wanted.dtype
        if wanted.dtype == torch.bool:
            assert torch.equal(actual, wanted)
    maps = [[t for t in results if t.is_floating_point()] for results in (found, expected)]
    close(*maps, "exported against packed")


def reference(case: Case, stock: nn.Module, model: Model, x: Tensor, masks: Any) -> tuple[Any, nn.Module]:
    plain = copy.deepcopy(stock)
    case.reference(plain, model.network, masks)
    return tuple(plain(x)), plain


def compare_gradients(case: Case, ours: tuple[Any, nn.Module, Tensor], theirs: tuple[Any, nn.Module, Tensor]) -> None:
    """Of the pictures, all dense parameters and the fast paths, where gates teach nothing but scorers."""
    if not case.sparsity["detach"]:
        return
    names = [name for name, _ in theirs[1].named_parameters()]
    fast = {name: p for name, p in ours[1].named_parameters() if ".fast_paths." in name}
    grads = []
    for maps, network, image in (ours, theirs):
        own = dict(network.named_parameters())
        of = [image, *(own[name] for name in names), *fast.values()]
        loss = sum((m * torch.linspace(-1, 1, m.shape[-1])).sum() for m in maps)
        found = torch.autograd.grad(loss, of, allow_unused=True)
        grads.append([torch.zeros_like(p) if g is None else g for g, p in zip(found, of, strict=True)])
    scale = max(1.0, *(g.abs().max().item() for g in grads[1]))
    for name, a, b in zip(["image", *names, *fast], *grads, strict=True):
        error = (a.flatten() - b.flatten()).abs().max().item() / scale
        assert error <= CLOSE, f"gradient of {name} differs by {error:.1e}"


def close(actual: Any, expected: Any, what: str) -> None:
    for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert a.shape == b.shape
        assert b.isfinite().all()
        error = (a - b).abs().max().item() / max(1.0, b.abs().max().item())
        assert error <= CLOSE, f"{what}: map {i} differs by {error:.1e}"
