"""Law 9: every kernel of every operator = the operator by other means: values, gradients, dtypes, strides, counts."""

from unittest import mock

import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from operands import CASES, DTYPES, LAYOUTS, SIGMAS, Case, differences, growth, rounding, watched

from mmsparse.analysis import count_macs
from mmsparse.ops import (
    EXPORT,
    OPERATORS,
    FeedForward,
    Rows,
    activation_name,
    conv_cpu,
    feed_forward_cpu,
    for_integers,
    from_tiles,
    slow_fast_conv2d,
    slow_fast_ffn,
    sparse_conv2d,
    sparse_conv2d_reference,
    static,
    tile_grid,
    tile_means,
    to_tiles,
    winograd,
)
from mmsparse.ops.sparse_conv import seen_of

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


OWN = {"columns": torch.bfloat16}  # what a kernel is for, if that is not single precision


def every_kernel() -> list:
    """A kernel that is registered anywhere in mmsparse is tested by that."""
    return [
        pytest.param(operator, kernel, device, id=f"{operator.name}-{kernel.name}-{device}")
        for operator in OPERATORS.values()
        for kernel in operator.kernels
        for device in DEVICES
        if kernel.device in (device, None, EXPORT)
    ]


def test_every_operator_has_cases():
    assert CASES.keys() == OPERATORS.keys()


@pytest.fixture
def few_at_a_time(monkeypatch):
    """So that small operands make several blocks."""
    monkeypatch.setattr(conv_cpu, "LARGE", 36 * 11 * 3)
    monkeypatch.setattr(feed_forward_cpu, "FEWEST", 3)
    monkeypatch.setattr(feed_forward_cpu, "LARGE", 1)


@pytest.mark.parametrize("form", [*DTYPES, *LAYOUTS], ids=str)
@pytest.mark.parametrize("operator, kernel, device", every_kernel())
def test_values(operator, kernel, device, form, few_at_a_time, monkeypatch):
    kernels, calls = watched(operator, kernel)
    monkeypatch.setattr(operator, "kernels", kernels)
    if kernel.device == EXPORT:
        monkeypatch.setattr("mmsparse.ops.operator.exporting", lambda: True)
    dtype, layout = (torch.float32, form) if form in LAYOUTS else (form, None)
    with torch.no_grad():
        for case in CASES[operator.name]():
            differences(case, case.to(dtype, device, layout))
    assert calls or form != OWN.get(kernel.name, torch.float32), "no case suits this kernel"


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    for case in CASES[name]():
        tensors = [None if t is None else t.clone().requires_grad_() for t in case.tensors]
        there = [t for t in tensors if t is not None]
        expected, actual = case.exact(*tensors), case.run(*tensors)
        direction = torch.randn_like(expected)
        theirs, ours = (
            torch.autograd.grad((out * direction).sum(), there, materialize_grads=True, allow_unused=True)
            for out in (expected, actual)
        )
        for mine, wanted in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-9, msg=lambda text: f"{case.name}: {text}")


@pytest.mark.parametrize("name", ["slow_fast_conv2d", "sparse_conv2d"])
def test_gradients_in_single_precision(name, few_at_a_time):
    """By what a processor has of its own for them, too."""
    for case in CASES[name]():
        singles = [None if t is None else t.float().requires_grad_() for t in case.tensors]
        doubles = [None if t is None else t.detach().double().requires_grad_() for t in singles]
        out = case.run(*singles)
        direction = torch.randn_like(out)
        learning = [t for t in singles if t is not None], [t for t in doubles if t is not None]
        how = dict(materialize_grads=True, allow_unused=True)
        ours = torch.autograd.grad((out * direction).sum(), learning[0], **how)
        theirs = torch.autograd.grad((case.exact(*doubles) * direction).sum(), learning[1], **how)
        for mine, wanted in zip(ours, theirs, strict=True):
            bound = SIGMAS * rounding(wanted, max(case.terms, direction.numel(), 9 * direction.shape[1]))
            torch.testing.assert_close(
                mine.double(), wanted, rtol=0, atol=bound, msg=lambda text: f"{case.name}: {text}"
            )


def one_of(name: str, dtype: torch.dtype = torch.float32) -> tuple[Case, list, tuple]:
    """A case with all there is, its tensors, and what the operator is called with."""
    case = next(case for case in CASES[name]() if case.name in TYPICAL)
    operator, tensors = OPERATORS[name], case.to(dtype)
    with pytest.MonkeyPatch.context() as patch:
        kernels, calls = watched(operator, operator.kernels[0])
        patch.setattr(operator, "kernels", kernels)
        case.run(*tensors)
    return case, tensors, calls[0]


TYPICAL = ("windows", "(6, 4, 1) (7, 9) some", "{'grn': True, 'scale': True} some", "(3, 1, 1) (7, 9) 4 some")


KNOWN = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize("name", CASES)
def test_pytorch_knows_the_operator(name):
    _, _, args = one_of(name)
    learning = [
        a.clone().requires_grad_() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args
    ]
    for inputs in (args, learning):
        torch.library.opcheck(getattr(torch.ops.mmsparse, name).default, tuple(inputs), test_utils=KNOWN)


@pytest.mark.parametrize("name", CASES)
def test_gradcheck(name):
    case, tensors, _ = one_of(name, torch.float64)
    there = [i for i, t in enumerate(tensors) if t is not None]

    def run(*chosen):
        full = dict(zip(there, chosen, strict=True))
        return case.run(*(full.get(i) for i in range(len(tensors))))

    assert torch.autograd.gradcheck(run, [tensors[i].requires_grad_() for i in there], fast_mode=True)


@pytest.mark.parametrize("name", CASES)
def test_it_counts_as_the_plain_version(name):
    for case in CASES[name]():
        with pytest.MonkeyPatch.context() as patch:
            counts = [count_macs(torch.nn.Identity(), lambda: case.run(*case.tensors)).total]
            patch.setattr(OPERATORS[name], "_dispatch", OPERATORS[name].plain)
            counts += [count_macs(torch.nn.Identity(), lambda: case.run(*case.tensors)).total]
        assert counts[0] == counts[1], case.name


class Wrapped(torch.nn.Module):
    """What an exporter or tracer is given; selections are known beforehand."""

    def __init__(self, operator, args):
        super().__init__()
        self.operator, self.args = operator, args

    def forward(self, x):
        return self.operator(x, *self.args[1:]).relu()


@pytest.mark.parametrize("name", CASES)
def test_exporters_see_gathers(name):
    _, _, args = one_of(name)
    model = Wrapped(OPERATORS[name], args)
    with torch.no_grad():
        program = torch.export.export(model, (args[0],), strict=False)  # the default of newer torch
        seen = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        assert seen and not [target for target in seen if "mmsparse" in target]
        assert not [target for target in seen for word in ("nonzero", "scatter", "index_copy", "put") if word in target]
        assert not {"aten.index.Tensor", "aten.masked_select.default"} & seen
        traced = torch.jit.trace(model, (args[0],))
        assert "mmsparse::" not in str(traced.inlined_graph)
        for seen in (program.module(), traced):
            torch.testing.assert_close(seen(args[0]), OPERATORS[name].plain(*args).relu(), rtol=1e-4, atol=1e-4)


def test_compilers_see_one_operator():
    models = torch.nn.ModuleList(Wrapped(operator, one_of(name)[2]) for name, operator in OPERATORS.items())
    seen = []

    def backend(graph, example):
        seen.append({str(node.target) for node in graph.graph.nodes})
        return graph.forward

    with torch.no_grad():
        for model in models:
            actual = torch.compile(model, backend=backend, fullgraph=True)(model.args[0])
            assert f"mmsparse.{model.operator.name}.default" in seen.pop()
            assert torch.equal(actual, model(model.args[0]))


@pytest.mark.parametrize("name", CASES)
def test_autocast(name):
    case, tensors, _ = one_of(name)
    exact = case.exact(*case.tensors)
    for learning in (False, True):
        with torch.set_grad_enabled(learning), torch.autocast("cpu", torch.bfloat16):
            short = [t.bfloat16() if t is not None and name == "attention_rows" else t for t in tensors]  # projected
            actual = case.run(*short)
        assert actual.dtype == (torch.float32 if name == "slow_fast_ffn" else torch.bfloat16)  # its scale is not cast
        bound = SIGMAS * rounding(exact, case.terms, torch.bfloat16)
        torch.testing.assert_close(actual.double(), exact, rtol=0, atol=bound)


def test_a_kernel_is_one_function_and_law_9_runs_it(monkeypatch):
    operator, (case, tensors, _) = OPERATORS["slow_fast_ffn"], one_of("slow_fast_ffn")
    before = case.run(*tensors)
    monkeypatch.setattr(operator, "kernels", list(operator.kernels))

    @operator.kernel("cpu", suits=lambda rows, **_: rows.dtype == torch.float32, name="toy")
    def toy(*args):
        return operator.plain(*args) + 1

    assert torch.equal(case.run(*tensors), before + 1)
    assert case.run(*case.tensors).dtype == torch.float64  # it does not suit, the one before runs
    listed = {param.id: param.values for param in every_kernel()}
    kernels, calls = watched(*listed["slow_fast_ffn-toy-cpu"][:2])
    monkeypatch.setattr(operator, "kernels", kernels)
    with pytest.raises(AssertionError, match="not close"):
        differences(case, tensors)
    assert calls


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8)], ids=str)
@pytest.mark.parametrize("tile", [1, 3, 4])
def test_tiles_come_back(size, tile):
    x = torch.randn(2, 5, *size)
    tiles = to_tiles(x, tile)
    assert tiles.shape == (2 * tile_grid(size, tile)[0] * tile_grid(size, tile)[1], tile * tile * 5)
    assert torch.equal(from_tiles(tiles, x.shape, tile), x)
    assert tiles.sum().item() == pytest.approx(x.sum().item(), abs=1e-4)  # zeros beyond the border


@pytest.mark.parametrize("chosen", [slice(0), slice(1, None, 3), slice(None)], ids=["none", "some", "all"])
def test_rows_come_back(chosen):
    x, mask = torch.randn(2, 7, 3), torch.zeros(2, 7, dtype=torch.bool)
    mask.view(-1)[chosen] = True
    rows, flat = Rows.of(mask), x.flatten(0, 1)
    assert torch.equal(flat[rows.keep], x[mask]) and torch.equal(flat[rows.rest], x[~mask])
    assert torch.equal(torch.cat([flat[rows.keep], flat[rows.rest]])[rows.inverse], flat)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", [(8, 12), (9, 10)])
@pytest.mark.parametrize(
    "norm", [torch.nn.GroupNorm(4, 16), torch.nn.GroupNorm(4, 16, affine=False), torch.nn.BatchNorm2d(16)]
)
def test_what_follows_a_convolution_leaves_rows_in_the_order_of_tiles(batch, size, norm, coarse):
    torch.manual_seed(0)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    tile = 4
    x = torch.randn(batch, 8, *size)
    high, wide = tile_grid(size, tile)
    mask = torch.rand(batch, high * wide).argsort(1) < 2  # as many of each picture
    tiles = Rows.of(mask)
    weights = (torch.randn(16, 8, 3, 3), torch.randn(16)), (torch.randn(16, 8), torch.randn(16))
    means = tile_means(x, tile).index_select(0, tiles.rest) if coarse else None
    found = static.slow_fast(x, *weights, tiles, tile, 1, means)
    layers = torch.nn.Sequential(norm, torch.nn.ReLU()).eval()
    done = layers(found)
    assert isinstance(done, static.TileMap) and done.where is found.where
    torch.testing.assert_close(done.whole(), layers(found.whole()), rtol=1e-5, atol=1e-5)


def test_only_chosen_tiles_are_multiplied():
    x, weight = torch.randn(2, 6, 8, 8), torch.randn(12, 6, 3, 3)
    for tile, count in ((1, 5), (4, 3)):
        macs = count_macs(torch.nn.Identity(), lambda: sparse_conv2d(x, weight, None, torch.arange(count), tile))
        assert macs.total == count * tile * tile * weight.numel()


@pytest.mark.parametrize("tile", [2, 4])
def test_the_whole_map_counts_as_its_convolutions(tile):
    high, wide = tile_grid((7, 9), tile)
    rows = Rows.of(torch.arange(2 * high * wide) % 3 == 0)
    args = [torch.randn(shape) for shape in ((2, 6, 7, 9), (5, 6, 3, 3), (5,), (5, 6), (5,))]
    macs = count_macs(torch.nn.Identity(), lambda: slow_fast_conv2d(args[0], args[1:3], args[3:], rows, tile)).total
    assert macs == tile**2 * 30 * (9 * len(rows.keep) + len(rows.rest))
    model = Wrapped(OPERATORS["slow_fast_conv2d"], (*args, None, *rows, tile, 1))
    analyzed = FlopAnalyzer(model, (args[0],)).unsupported_ops_warnings(False)
    assert sum(n for op, n in analyzed.by_operator().items() if op in ("conv", "linear")) == macs


def test_winograds_points_let_roundings_grow_half_as_much_as_the_usual_ones():
    assert growth(winograd.POINTS) == pytest.approx(5.14, abs=0.01)
    assert growth((0.0, 1.0, -1.0, 2.0, -2.0)) == pytest.approx(10.77, abs=0.01)


@pytest.mark.parametrize("channels", [8, 64, 256])
def test_winograds_error_is_that_of_its_roundings(channels):
    x, weight = torch.randn(2, channels, 16, 16), torch.randn(32, channels, 3, 3)
    idx = torch.arange(2 * 16)
    exact = sparse_conv2d_reference(x.double(), weight.double(), None, idx, 4)
    error = sparse_conv2d(x, weight, None, idx, 4) - exact
    assert 0 < error.square().mean().sqrt() < rounding(exact, 9 * channels)


def test_winograd_is_for_single_precision_alone(monkeypatch):
    for operator in OPERATORS.values():  # whatever others register
        own = [kernel for kernel in operator.kernels if kernel.run.__module__.startswith("mmsparse.")]
        monkeypatch.setattr(operator, "kernels", own)

    def chosen(dtype=torch.float32, kernel=3, tile=4, dilation=1, groups=1, tiles=1):
        x, weight = torch.zeros(1, 6, 8, 8, dtype=dtype), torch.zeros(6, 6, kernel, kernel, dtype=dtype)
        whole, rows = OPERATORS["slow_fast_conv2d"], OPERATORS["sparse_conv2d"]
        run = whole._choose("cpu", (x, weight, *[None] * 7, tile, dilation))
        of_rows = rows._choose("cpu", (x, 8, 8, weight, None, torch.zeros(tiles), tile, dilation, groups))
        return [
            next(kernel.name for kernel in operator.kernels if kernel.run is run)
            for operator, run in ((whole, run), (rows, of_rows))
        ]

    assert chosen() == ["winograd", "winograd"]
    for other in (
        dict(dtype=torch.float64),
        dict(dtype=torch.bfloat16),
        dict(tile=8),
        dict(dilation=2),
        dict(kernel=5),
    ):
        of_whole = "columns" if other == dict(dtype=torch.bfloat16) else "blocks"
        assert chosen(**other) == [of_whole, "plain"], other
    assert chosen(groups=2)[1] == "plain"
    assert chosen(tiles=0)[1] == "plain"  # a kernel is transformed for many tiles, or for several layers


def test_an_activation_may_work_in_place():
    """As behind a stock convolution, with gradients or without."""
    case, tensors, _ = one_of("slow_fast_conv2d")
    x = tensors[0].requires_grad_()
    expected = case.run(x, *tensors[1:]).relu()
    actual = case.run(x, *tensors[1:]).relu_()
    assert torch.equal(actual, expected)
    assert torch.equal(*(torch.autograd.grad(out.sum(), x)[0] for out in (actual, expected)))


def test_training_keeps_the_map_alone():
    """Patches of 36 values to 16 would be 2.25 maps."""
    x, weight, bias = (torch.randn(s, requires_grad=True) for s in ((2, 6, 64, 64), (12, 6, 3, 3), (12,)))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        sparse_conv2d(x, weight, bias, torch.arange(0, 512, 2), 4)
    assert max(t.numel() for t in kept) == x.numel()


def test_an_activation_nobody_knows():
    x, *layers = one_of("slow_fast_ffn")[1][:5]
    known = [torch.nn.GELU(), torch.nn.GELU("tanh"), torch.nn.ReLU(inplace=True), torch.nn.SiLU(), torch.nn.Tanh()]
    assert [activation_name(layer) for layer in known] == ["gelu", "gelu_tanh", "relu", "silu", None]
    slow = FeedForward(layers[:2], 1e-6, layers[2:], layers[2:], "tanh")
    with pytest.raises(ValueError, match="`activation` to be one of .*'silu'.*got 'tanh'"):
        slow_fast_ffn(x, Rows.of(torch.ones(len(x), dtype=torch.bool)), slow, None)


@pytest.mark.parametrize("name", ["sparse_conv2d", "slow_fast_conv2d"])
def test_values_of_what_is_made_for_integers(name, monkeypatch):
    monkeypatch.setattr("mmsparse.ops.operator.exporting", lambda: True)
    watched = mock.patch.object(static._Source, "columns", autospec=True, side_effect=static._Source.columns)
    with watched as columns, torch.no_grad(), for_integers():
        for case in CASES[name]():
            differences(case, case.to(torch.float64))
    assert columns.called


@pytest.mark.parametrize("kernel, dilation, tile, read", [(3, 1, 4, 6), (3, 4, 4, 12), (3, 12, 4, 12), (5, 36, 2, 10)])
def test_a_kernel_whose_points_lie_apart_reads_no_more_than_its_points(kernel, dilation, tile, read):
    seen = seen_of(torch.zeros(1, 1, kernel, kernel), tile, dilation)
    assert len(seen.steps) == read
    assert (seen.stride, seen.dilation) in ((1, dilation), (kernel, 1))
