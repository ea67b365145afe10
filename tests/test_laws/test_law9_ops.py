"""Law 9: a fast op = its reference: values, gradients, dtypes, empty and full selections, strided inputs."""

import pytest
import torch

from mmsparse.analysis import count_macs
from mmsparse.ops import from_tiles, sparse_conv2d, sparse_conv2d_reference, tile_grid, to_tiles

KERNELS = [(3, 1, 1), (5, 1, 1), (3, 2, 1), (3, 1, 6), (1, 1, 1)]  # size, dilation, groups
SIZES = [(1, 1), (7, 9), (8, 8)]
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
@pytest.mark.parametrize("dtype, atol", [(torch.float32, 1e-5), (torch.bfloat16, 0.1)], ids=str)
def test_dtypes(dtype, atol, tile):
    x, weight, bias = operands((3, 1, 1), (8, 8), dtype)
    idx = tiles_of((8, 8), tile, "some")
    exact = sparse_conv2d_reference(x.double(), weight.double(), bias.double(), idx, tile)
    actual = sparse_conv2d(x, weight, bias, idx, tile)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), exact, rtol=0, atol=atol)


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
