"""Tiles of maps, for whatever Hypothesis thinks of."""

import itertools
import math

import torch
import torch.nn.functional as F
from drawn import BATCHES, DTYPES, NONE, SEEDS, flags, geometries, normal, positions
from hypothesis import given
from hypothesis import strategies as st

from mmsparse.ops import (
    Rows,
    from_tiles,
    map_rows,
    put_tiles,
    sparse_conv2d,
    sparse_conv2d_reference,
    tile_means,
    tiles_at,
    to_tiles,
)
from mmsparse.ops.tiles import window
from mmsparse.sparsity import real_sizes, unit_features, valid_units


@st.composite
def maps(draw):
    """(B, C, H, W) of numbers that are all different, and the side of a tile."""
    shape = (draw(BATCHES), draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    return torch.arange(1.0, 1.0 + math.prod(shape)).view(shape), draw(st.integers(1, 5))


def tiles_of(x, tile):
    """Of each tile, its locations beyond the border, too, (tile, tile, C)."""
    height, width = (-(-side // tile) * tile for side in x.shape[2:])
    x = F.pad(x, (0, width - x.shape[3], 0, height - x.shape[2])).permute(0, 2, 3, 1)
    places = itertools.product(x, range(0, height, tile), range(0, width, tile))
    return torch.stack([image[y : y + tile, x : x + tile] for image, y, x in places])


@given(maps(), DTYPES)
def test_tiles_become_their_map_again(cut, dtype):
    x, tile = cut[0].to(dtype), cut[1]
    assert torch.equal(from_tiles(to_tiles(x, tile), x.shape, tile), x)


@given(maps())
def test_tiles_are_parts_of_their_map(cut):
    x, tile = cut
    expected = tiles_of(x, tile)
    assert torch.equal(to_tiles(x, tile), expected.flatten(1))
    chosen = torch.arange(len(expected)).flip(0)[::2]
    inside = tiles_of(torch.ones_like(x), tile)[chosen].flatten(1) > 0
    assert torch.equal(tiles_at(x, chosen, tile)[inside], expected[chosen].flatten(1)[inside])


@given(maps(), st.floats(-1e3, 1e3, width=32), st.data())
def test_a_constants_tiles_have_its_mean(cut, value, data):
    """Whatever is real, and whatever lies where nothing is."""
    x, tile = torch.full_like(cut[0], value), cut[1]
    real = data.draw(flags(x[:, 0].numel())).view(len(x), 1, *x.shape[2:]).clone()
    real[:, :, ::tile, ::tile] = True
    means = tile_means(torch.where(real, x, torch.inf), tile, real)
    torch.testing.assert_close(means, torch.full_like(means, value), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tile_means(x, tile), means, rtol=1e-5, atol=1e-5)


@given(maps(), st.data())
def test_a_tiles_mean_is_that_of_its_real_locations(cut, data):
    x, tile = cut
    real = data.draw(flags(x[:, 0].numel())).view(len(x), 1, *x.shape[2:])
    pairs = zip(tiles_of(x.double(), tile), tiles_of(real.double(), tile), strict=True)
    expected = torch.stack([(tile * here).sum(dim=(0, 1)) / here.sum().clamp_min(1) for tile, here in pairs])
    torch.testing.assert_close(tile_means(x, tile, real), expected.float(), rtol=1e-5, atol=1e-5)


@given(geometries(extra=NONE), BATCHES, SEEDS, st.data())
def test_what_scorers_see_of_a_tile_is_the_mean_of_what_is_real(geometry, batch, seed, data):
    x = normal(seed, batch, 3, *geometry.size)
    sizes = [tuple(data.draw(st.integers(1, side)) for side in geometry.size) for _ in range(batch)]
    with real_sizes(sizes, geometry.size):
        valid = valid_units(geometry.locations, x)
        found = unit_features(x, geometry)
    real = torch.ones(batch, 1, *geometry.size).bool() if valid is None else valid.mask.view(batch, 1, *geometry.size)
    if geometry.tile > 1:
        torch.testing.assert_close(found.flatten(0, 1), tile_means(x, geometry.tile, real), rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(found.flatten(0, 1), map_rows(x))


@given(maps(), st.integers(0, 3), st.data())
def test_windows_are_parts_of_a_padded_map(cut, halo, data):
    x, tile = cut
    number = len(tiles_of(x, tile))
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, number - 1), min_size=1, max_size=6)))
    where, outside = window((x.shape[2], x.shape[3]), chosen, tile, halo)
    side = tile + 2 * halo
    found = map_rows(x)[where].masked_fill(outside.unsqueeze(1), 0).view(-1, side, side, x.shape[1])
    beyond = halo + tile
    padded = F.pad(x, (halo, beyond, halo, beyond)).permute(0, 2, 3, 1)
    wide = -(-x.shape[3] // tile)
    high = -(-x.shape[2] // tile)
    for part, index in zip(found, chosen.tolist(), strict=True):
        y, left = index // wide % high * tile, index % wide * tile
        assert torch.equal(part, padded[index // (high * wide), y : y + side, left : left + side])


@given(maps(), st.data())
def test_tiles_that_are_put_change_nothing_else(cut, data):
    x, tile = cut
    rows = Rows.of(data.draw(flags(len(tiles_of(x, tile)))))
    own = to_tiles(x, tile)
    assert torch.equal(put_tiles(x, own[rows.keep], rows, tile), x)
    expected = own.clone()
    expected[rows.keep] *= -1
    assert torch.equal(put_tiles(x, expected[rows.keep], rows, tile), from_tiles(expected, x.shape, tile))


@given(maps(), SEEDS, st.data())
def test_a_convolution_at_tiles_is_the_dense_one_there(cut, seed, data):
    x, tile = cut[0].double(), cut[1]
    keep = positions(data.draw(flags(len(tiles_of(x, tile)))))
    inside = (tiles_of(torch.ones_like(x[:, :1]), tile)[keep] > 0).expand(-1, -1, -1, 4).flatten(1)
    for kernel, dilation in itertools.product((1, 3, 5), (1, 2, 3)):
        weight, bias = normal(seed, 4, x.shape[1], kernel, kernel).double(), normal(seed, 4).double()
        found, expected = (
            run(x, weight, bias, keep, tile, dilation)[inside] for run in (sparse_conv2d, sparse_conv2d_reference)
        )
        torch.testing.assert_close(found, expected)
