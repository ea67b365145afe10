"""Law 9: a fast op = its reference: values, gradients, dtypes, empty and full selections, strided inputs."""

import pytest
import torch
from mmengine.analysis import FlopAnalyzer

from mmsparse.analysis import count_macs
from mmsparse.ops import (
    from_tiles,
    slow_fast_conv2d,
    sparse_conv2d,
    sparse_conv2d_reference,
    tile_grid,
    to_tiles,
    winograd,
)

KERNELS = [(3, 1, 1), (5, 1, 1), (3, 2, 1), (3, 1, 6), (1, 1, 1)]  # size, dilation, groups
SIZES = [(1, 1), (7, 9), (8, 8)]
SIGMAS = 6  # what the largest of some thousands of errors may be of their root mean square
CHOSEN = {"none": slice(0), "some": slice(1, None, 2), "all": slice(None)}


def operands(kernel, size, dtype=torch.float64):
    width, _, groups = kernel
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 6, *size), (12 if groups == 1 else 6, 6 // groups, width, width), (12 if groups == 1 else 6,)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def tiles_of(size, tile, chosen):
    high, wide = tile_grid(size, tile)
    return torch.arange(2 * high * wide)[CHOSEN[chosen]]


def inside(size, tile, idx, channels):
    """1 for what lies on the map, 0 beyond its border."""
    return to_tiles(torch.ones(2, channels, *size, dtype=torch.float64), tile)[idx]


def growth(points):
    """How much larger, root mean square, the terms of a transformed convolution are than the nine of the direct sum."""
    patch, kernel, result = (t.double().square() for t in winograd.transforms(points))
    return (result @ (kernel.sum(dim=1) * patch.sum(dim=1)) / 9).mean().sqrt().item()


def rounding(exact, terms, dtype=torch.float32):
    """Bound of the root mean square of the rounding error of sums of so many terms, in whatever order a kernel adds.

    No term takes part in more roundings than there are additions and products: as many as terms, and as many again as
    Winograd's transforms have (9 and 36 there, 36 back). Each is off by eps / 2 / sqrt(3) of its value, root mean
    square, and independent of the others. The terms are as large as the sum, or have grown by the transforms.
    """
    eps = torch.finfo(dtype).eps
    direct = (terms / 3) ** 0.5
    transformed = growth(winograd.POINTS) * ((terms / 9 + 9 + 36 + 36) / 3) ** 0.5
    largest = transformed if dtype == torch.float32 else direct
    return max(largest, direct) * eps / 2 * exact.square().mean().sqrt().item()


@pytest.mark.parametrize("chosen", CHOSEN)
@pytest.mark.parametrize("tile", [1, 2, 4, 8])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_sparse_conv_is_the_dense_one_at_its_tiles(kernel, size, tile, chosen):
    x, weight, bias = operands(kernel, size)
    idx = tiles_of(size, tile, chosen)
    mask = inside(size, tile, idx, len(weight))
    actual = sparse_conv2d(x, weight, bias, idx, tile, *kernel[1:]) * mask
    expected = sparse_conv2d_reference(x, weight, bias, idx, tile, *kernel[1:])
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    direction = torch.randn_like(expected)
    ours = torch.autograd.grad((actual * direction).sum(), (x, weight, bias))
    theirs = torch.autograd.grad((expected * direction).sum(), (x, weight, bias))
    for mine, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("tile", [1, 4])
@pytest.mark.parametrize(
    "strided",
    [
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.cat([x, x], dim=1)[:, ::2],
        lambda x: torch.cat([x, x], dim=3)[..., : x.shape[-1]],
        lambda x: x.to(memory_format=torch.channels_last),
    ],
    ids=["transposed", "channels", "columns", "channels-last"],
)
def test_strided_inputs(strided, tile):
    x, weight, bias = operands((3, 1, 1), (7, 9))
    view = strided(x)
    idx = tiles_of((7, 9), tile, "some")
    expected = sparse_conv2d(view.contiguous(), weight, bias, idx, tile)
    torch.testing.assert_close(sparse_conv2d(view, weight, bias, idx, tile), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tile", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype, tile):
    x, weight, bias = operands((3, 1, 1), (8, 8), dtype)
    idx = tiles_of((8, 8), tile, "some")
    exact = sparse_conv2d_reference(x.double(), weight.double(), bias.double(), idx, tile)
    actual = sparse_conv2d(x, weight, bias, idx, tile)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), exact, rtol=0, atol=SIGMAS * rounding(exact, 9 * 6 + 1, dtype))


@pytest.mark.parametrize("tile", [1, 2])
def test_gradcheck(tile):
    x, weight, bias = operands((3, 1, 1), (3, 4))
    idx = tiles_of((3, 4), tile, "some")
    assert torch.autograd.gradcheck(lambda *a: sparse_conv2d(*a, idx, tile), (x, weight, bias))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("tile", [1, 3, 4])
def test_tiles_come_back(size, tile):
    x = torch.randn(2, 5, *size)
    tiles = to_tiles(x, tile)
    assert tiles.shape == (2 * tile_grid(size, tile)[0] * tile_grid(size, tile)[1], tile * tile * 5)
    assert torch.equal(from_tiles(tiles, x.shape, tile), x)
    assert tiles.sum().item() == pytest.approx(x.sum().item(), abs=1e-4)  # zeros beyond the border


def test_only_chosen_tiles_are_multiplied():
    x, weight, bias = operands((3, 1, 1), (8, 8))
    for tile, count in ((1, 5), (4, 3)):
        macs = count_macs(
            torch.nn.Identity(), lambda t=tile, n=count: sparse_conv2d(x, weight, bias, torch.arange(n), t)
        )
        assert macs.total == count * tile * tile * weight.numel()


def slow_fast(channels, width, size, tile, dtype=torch.float32, bias=True, dilation=1, keep=0.4):
    """Operands of the whole-map operator, and what it must give by the dense convolutions."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, weight, fast = random(2, channels, *size), random(width, channels, 3, 3) * 0.1, random(width, channels) * 0.1
    biases = (random(width), random(width)) if bias else (None, None)
    high, wide = tile_grid(size, tile)
    mask = torch.rand(2 * high * wide, generator=generator) < keep
    slow_map = torch.nn.functional.conv2d(x, weight, biases[0], padding=dilation, dilation=dilation)
    fast_map = torch.nn.functional.conv2d(x, fast[..., None, None], biases[1])
    where = mask.view(2, 1, high, wide).repeat_interleave(tile, 2).repeat_interleave(tile, 3)
    expected = torch.where(where[..., : size[0], : size[1]], slow_map, fast_map)
    layers = [tuple(None if t is None else t.to(dtype) for t in pair) for pair in zip((weight, fast), biases)]
    return (x.to(dtype), *layers, *(m.nonzero().squeeze(1) for m in (mask, ~mask)), tile, dilation), expected


@pytest.mark.parametrize("keep", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 8)], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        dict(channels=6, width=5, tile=1),
        dict(channels=6, width=5, tile=4, dilation=2),
        dict(channels=6, width=5, tile=3, bias=False),
        dict(channels=6, width=5, tile=4),
        dict(channels=64, width=48, tile=4, bias=False),
    ],
    ids=lambda shape: "-".join(map(str, shape.values())),
)
def test_a_whole_map_out_of_two_convolutions(shape, size, keep, monkeypatch):
    operands, expected = slow_fast(**shape, size=size, keep=keep)
    monkeypatch.setattr(winograd, "LARGE", 36 * 11 * 3)  # three tiles at a time
    for view in (operands[0], operands[0].contiguous(memory_format=torch.channels_last)):
        actual = slow_fast_conv2d(view, *operands[1:])
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=2e-5 * expected.abs().max().item())
    learning = operands[0].clone().requires_grad_()
    other = slow_fast_conv2d(learning, *operands[1:])
    torch.testing.assert_close(other.detach(), actual, rtol=0, atol=3e-5 * expected.abs().max().item())
    assert torch.autograd.grad(other.sum(), learning)[0].abs().max() > 0


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
    made = []
    transform = winograd.transform_kernel
    monkeypatch.setattr(winograd, "transform_kernel", lambda weight: made.append(1) or transform(weight))
    for taken, more in (
        (1, {}),
        (0, dict(dtype=torch.float64)),
        (0, dict(dtype=torch.bfloat16)),
        (0, dict(tile=8)),
        (0, dict(dilation=2)),
    ):
        operands, _ = slow_fast(**{**dict(channels=6, width=5, size=(8, 8), tile=4), **more})
        slow_fast_conv2d(*operands)
        assert len(made) == taken, more
        made.clear()


@pytest.mark.parametrize("tile", [2, 4])
def test_the_whole_map_counts_as_its_convolutions(tile):
    operands, _ = slow_fast(6, 5, (7, 9), tile)
    kept, rest = len(operands[3]), len(operands[4])
    macs = count_macs(torch.nn.Identity(), lambda: slow_fast_conv2d(*operands)).total
    assert macs == tile**2 * 30 * (9 * kept + rest)
    analyzed = FlopAnalyzer(Wrapped(operands), (operands[0],)).unsupported_ops_warnings(False)
    assert sum(n for op, n in analyzed.by_operator().items() if op in ("conv", "linear")) == macs


class Wrapped(torch.nn.Module):
    def __init__(self, operands):
        super().__init__()
        self.operands = operands[1:]

    def forward(self, x):
        return slow_fast_conv2d(x, *self.operands).relu()


def test_compilers_and_exporters_see_the_whole_map():
    operands, expected = slow_fast(6, 5, (7, 9), 4)
    with torch.no_grad():
        program = torch.export.export(Wrapped(operands), (operands[0],))
        names = {str(node.target) for node in program.graph.nodes}
        assert "mmsparse.slow_fast_conv2d.default" in names
        actual = program.module()(operands[0])
        torch.library.opcheck(
            torch.ops.mmsparse.slow_fast_conv2d.default,
            (operands[0], *operands[1], *operands[2], *operands[3:]),
            test_utils=("test_schema", "test_faketensor"),
        )
    torch.testing.assert_close(actual.double(), expected.relu(), rtol=0, atol=2e-5 * expected.abs().max().item())


def test_autocast():
    operands, expected = slow_fast(6, 5, (8, 8), 4)
    with torch.autocast("cpu", torch.bfloat16):
        actual = slow_fast_conv2d(*operands)
        assert actual.dtype == torch.bfloat16
        rows = sparse_conv2d(operands[0], *operands[1], operands[3], 4)
        assert rows.dtype == torch.bfloat16
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=0.05 * expected.abs().max().item())


def test_training_keeps_the_map_alone():
    """Patches of 36 values to 16 would be 2.25 maps."""
    x, weight, bias = (t.float().detach().requires_grad_() for t in operands((3, 1, 1), (64, 64)))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        sparse_conv2d(x, weight, bias, torch.arange(0, 512, 2), 4)
    assert max(t.numel() for t in kept) == x.numel()
