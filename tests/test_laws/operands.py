"""Operands of every operator, and what it must give by other means: the cases of law 9."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from mmsparse.ops import (
    FeedForward,
    Groups,
    Kernel,
    NormLinear,
    Operator,
    Rows,
    attention_rows,
    from_tiles,
    slow_fast_conv2d,
    slow_fast_ffn,
    sparse_conv2d,
    sparse_conv2d_reference,
    tile_grid,
    tile_means,
    to_tiles,
    winograd,
)

SIGMAS = 6  # what the largest of some thousands of errors may be of their root mean square
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = {
    "transposed": lambda t: t.transpose(-1, 0).contiguous().transpose(-1, 0),
    "every-second": lambda t: torch.stack([t, t], dim=-1).flatten(-2)[..., ::2],
    "columns": lambda t: torch.cat([t, t], dim=-1)[..., : t.shape[-1]],
    "channels-last": lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t,
}


@dataclass(frozen=True)
class Case:
    """A call of an operator's function.

    Args:
        name: What is special about it.
        tensors: All that have gradients, in float64; None where one is left out.
        run: From these to the operator's result.
        exact: The same by other means.
        terms: How many roundings a number goes through, one after another, if each term of a sum is one.
    """

    name: str
    tensors: list[Tensor | None]
    run: Callable[..., Tensor]
    exact: Callable[..., Tensor]
    terms: int

    def to(self, dtype: torch.dtype, device: str = "cpu", layout: str | None = None) -> list[Tensor | None]:
        lay = LAYOUTS.get(layout, lambda t: t)
        return [None if t is None else lay(t.to(device, dtype)) for t in self.tensors]


def differences(case: Case, tensors: list[Tensor | None]) -> None:
    """Raise where the operator's error is more than that of its roundings."""
    exact = case.exact(*(None if t is None else t.double() for t in tensors))
    actual = case.run(*tensors)
    dtype = tensors[0].dtype
    assert actual.dtype == dtype
    bound = SIGMAS * rounding(exact, case.terms, dtype) * (2 if dtype == torch.float64 else 1)  # both are rounded so
    torch.testing.assert_close(actual.double(), exact, rtol=0, atol=bound, msg=lambda text: f"{case.name}: {text}")


def watched(operator: Operator, kernel: Kernel) -> tuple[list[Kernel], list[tuple]]:
    """The kernels of an operator that is left one beside the plain one, and a list of its calls to come.

    Each call is held to what a kernel promises: it changes no argument, gives none back, and packs its rows.
    """
    calls = []

    def run(*args):
        calls.append(args)
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        before = [tensor.clone() for tensor in tensors]
        out = kernel.run(*args)
        assert all(map(torch.equal, tensors, before)), f"{kernel.name} changes its arguments"
        shared = {tensor.untyped_storage().data_ptr() for tensor in tensors} & {out.untyped_storage().data_ptr()}
        assert not shared or not out.numel(), f"{kernel.name} gives an argument back"
        assert out.is_contiguous(), f"{kernel.name} gives a view of its rows"
        return out

    checked = replace(kernel, run=run)
    return ([checked] if kernel.device is None else [operator.kernels[0], checked]), calls


def growth(points: tuple[float, ...]) -> float:
    """How much larger, root mean square, the terms of a transformed convolution are than the nine of the direct sum."""
    patch, kernel, result = (torch.from_numpy(t).double().square() for t in winograd.transforms(points))
    return (result @ (kernel.sum(dim=1) * patch.sum(dim=1)) / 9).mean().sqrt().item()


def rounding(exact: Tensor, terms: int, dtype: torch.dtype = torch.float32) -> float:
    """Bound of the root mean square of the rounding error of sums of so many terms, in whatever order a kernel adds.

    No term takes part in more roundings than there are additions and products: as many as terms, and as many again as
    Winograd's transforms have (9 and 36 there, 36 back). Each is off by eps / 2 / sqrt(3) of its value, root mean
    square, and independent of the others. The terms are as large as the sum, or have grown by the transforms. What is
    zero has no error.
    """
    exact = exact[exact != 0]
    eps = torch.finfo(dtype).eps
    direct = (terms / 3) ** 0.5
    transformed = growth(winograd.POINTS) * ((terms / 9 + 9 + 36 + 36) / 3) ** 0.5
    largest = transformed if dtype == torch.float32 else direct
    return max(largest, direct) * eps / 2 * (exact.square().mean().sqrt().item() if exact.numel() else 0.0)


def randoms(*shapes: tuple[int, ...] | None) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    return [None if s is None else torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def masks(count: int) -> Iterator[tuple[str, Tensor]]:
    for name, chosen in {"none": slice(0), "some": slice(1, None, 2), "all": slice(None)}.items():
        mask = torch.zeros(count, dtype=torch.bool)
        mask[chosen] = True
        yield name, mask


def sparse_convs() -> Iterator[Case]:
    kernels = [(3, 1, 1), (5, 1, 1), (3, 2, 1), (3, 5, 1), (5, 3, 2), (3, 1, 6), (1, 1, 1)]  # size, dilation, groups
    for (k, dilation, groups), size, tile in product(kernels, [(1, 1), (7, 9), (8, 8)], (1, 2, 4, 8)):
        width = 12 if groups == 1 else 6
        tensors = randoms((2, 6, *size), (width, 6 // groups, k, k), (width,))
        inside = to_tiles(torch.ones(2, width, *size), tile)  # 1 on the map, 0 beyond its border
        for name, mask in masks(len(inside)):
            idx, how = mask.nonzero().squeeze(1), (tile, dilation, groups)

            def run(x, weight, bias, idx=idx, how=how, inside=inside):
                return sparse_conv2d(x, weight, bias, idx.to(x.device), *how).masked_fill(
                    inside[idx].to(x.device) == 0, 0
                )

            def exact(x, weight, bias, idx=idx, how=how):
                return sparse_conv2d_reference(x, weight, bias, idx.to(x.device), *how)

            yield Case(f"{(k, dilation, groups)} {size} {tile} {name}", tensors, run, exact, 6 * k * k + 1)


def whole_maps() -> Iterator[Case]:
    # channels, width, tile, dilation, whether there are biases, and whether a fast tile is one
    shapes = [
        (6, 5, 1, 1, True),
        (6, 5, 4, 2, True),
        (6, 5, 3, 1, False),
        (6, 5, 4, 1, True),
        (64, 48, 4, 1, False),
        (6, 5, 4, 6, True),
    ]
    shapes = [(*shape, False) for shape in shapes] + [(6, 5, 3, 2, True, True), (6, 5, 4, 1, True, True)]
    for (channels, width, tile, dilation, biased, coarse), size in product(shapes, [(1, 1), (7, 9), (16, 8)]):
        bias = (width,) if biased else None
        tensors = randoms((2, channels, *size), (width, channels, 3, 3), bias, (width, channels), bias)
        high, wide = tile_grid(size, tile)
        for name, mask in masks(2 * high * wide):

            def run(x, weight, bias, fast, fast_bias, mask=mask, how=(tile, dilation), coarse=coarse):
                tiles = Rows.of(mask.to(x.device))
                means = tile_means(x, how[0]).index_select(0, tiles.rest) if coarse else None
                return slow_fast_conv2d(x, (weight, bias), (fast, fast_bias), tiles, *how, means)

            def exact(x, weight, bias, fast, fast_bias, mask=mask, tile=tile, dilation=dilation, coarse=coarse):
                slow = F.conv2d(x, weight, bias, padding=dilation, dilation=dilation)
                if coarse:
                    cells = to_tiles(torch.ones_like(x), tile).unflatten(1, (-1, x.shape[1])).sum(1, keepdim=True)
                    means = to_tiles(x, tile).unflatten(1, (-1, x.shape[1])).sum(1, keepdim=True) / cells
                    x = from_tiles(means.expand(-1, tile**2, -1).flatten(1), x.shape, tile)
                others = F.conv2d(x, fast[..., None, None], fast_bias)
                tiles = torch.where(mask.to(x.device)[:, None], to_tiles(slow, tile), to_tiles(others, tile))
                return from_tiles(tiles, slow.shape, tile)

            kind = " coarse" if coarse else ""
            yield Case(f"{(channels, tile, dilation)} {size} {name}{kind}", tensors, run, exact, 9 * channels + 1)


def feed_forwards() -> Iterator[Case]:
    for variant in (
        dict(),
        dict(activation="gelu_tanh", scale=True),
        dict(activation="relu", fast=False),
        dict(activation="silu", biased=False),
        dict(grn=True, scale=True),
    ):
        unequal = torch.arange(22) % 11 + torch.arange(22) // 11 * 5 < 4
        for name, mask in [*masks(22), ("unequal", unequal), ("none of one", torch.arange(22) < 9)]:
            yield _feed_forward(f"{variant} {name}", mask, **variant)


def _feed_forward(
    name: str, mask: Tensor, activation="gelu", scale=False, fast=True, biased=True, grn=False, width=5, hidden=13
) -> Case:
    """Of two pictures."""
    counts = mask.view(2, -1).sum(dim=1).tolist()
    tensors = randoms(
        *((len(mask), width), (width,), (width,), (hidden, width), (hidden,) if biased else None),
        *((width, hidden), (width,) if biased else None, (width,) if scale else None),
        *(((hidden,), (hidden,)) if grn else (None, None)),
        *(((width,), (width,), (width, width), (width,) if biased else None) if fast else (None,) * 4),
    )

    def run(x, weight, bias, w1, b1, w2, b2, scale, gamma, beta, *light):
        slow = FeedForward(
            (weight, bias), 1e-6, (w1, b1), (w2, b2), activation, scale, (gamma, beta) if grn else None, grn_eps=1e-5
        )
        other = NormLinear(light[:2], 1e-5, light[2:]) if fast else None
        return slow_fast_ffn(
            x, Rows.of(mask.to(x.device)), slow, other, counts[0] if counts[0] == counts[1] else counts
        )

    def exact(x, weight, bias, w1, b1, w2, b2, scale, gamma, beta, *light):
        h = F.linear(F.layer_norm(x, (width,), weight, bias, 1e-6), w1, b1)
        if activation.startswith("gelu"):
            h = F.gelu(h, approximate="tanh" if activation == "gelu_tanh" else "none")
        else:
            h = getattr(F, activation)(h)
        slow_row = mask.to(x.device)[:, None]
        if grn:  # ConvNeXt v2, over the kept rows of each picture
            norm = torch.where(slow_row, h, 0).unflatten(0, (2, -1)).norm(dim=1, keepdim=True)
            ratio = (norm / (norm.mean(dim=-1, keepdim=True) + 1e-5)).expand(2, len(h) // 2, -1).flatten(0, 1)
            h = gamma * (h * ratio) + beta + h
        slow = F.linear(h, w2, b2) * (1 if scale is None else scale)
        others = 0.0
        if fast:
            others = F.linear(F.layer_norm(x, (width,), *light[:2], 1e-5), *light[2:])
        return torch.where(slow_row, slow, others)

    return Case(name, tensors, run, exact, 4 * (width + hidden))


def attentions() -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)

    def numbers(count: int) -> Tensor:  # of groups; the third has no rows
        drawn = torch.randint(5, (count,), generator=generator)
        return torch.where(drawn == 2, 3, drawn)

    several = numbers(23)
    padding = torch.tensor([0, 3, 1, 0, 7])
    yield _attention("equal", torch.arange(12) // 4, None, 4)
    yield _attention("one each", torch.arange(3), None, 1)
    yield _attention("differing", several, None, Groups.of(several))
    yield _attention("windows", several, None, Groups.of(several, padding), padding=padding)
    yield _attention("more are asked", torch.arange(12) // 4, torch.arange(21) // 7, 4, 7)
    asked = torch.cat([numbers(20), torch.arange(5)])
    yield _attention("differing are asked", several, asked, Groups.of(several, total=5), Groups.of(asked, total=5))
    yield _attention("all are asked", several, torch.arange(15) // 3, Groups.of(several, total=5), 3)
    yield _attention("none", several[:0], None, Groups.of(several[:0], padding), padding=padding)
    yield _attention("none equal", several[:0], None, 4)


def _attention(
    name: str,
    number: Tensor,
    asked_number: Tensor | None,
    groups: Groups | int,
    asked: Groups | int | None = None,
    padding: Tensor | None = None,
    heads: int = 3,
) -> Case:
    width = 4 * heads
    rows = len(number if asked_number is None else asked_number)
    tensors = randoms((len(number), width), (rows, 2 * width), None if padding is None else (1, 2 * width))

    def run(query, key_value, padded):
        return attention_rows(query, key_value, heads, groups, asked, padded)

    def exact(query, key_value, padded):
        of_keys = number if asked_number is None else asked_number
        if padding is not None:  # each padded cell is a key of its window
            cells = torch.arange(len(padding)).repeat_interleave(padding)
            of_keys = torch.cat([of_keys, cells])
            key_value = torch.cat([key_value, padded.expand(len(cells), -1)])
        query = query.unflatten(1, (heads, -1)).transpose(0, 1)
        key, value = key_value.unflatten(1, (2, heads, -1)).permute(1, 2, 0, 3)
        logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        weight = logits.masked_fill((number[:, None] != of_keys).to(query.device), -torch.inf).softmax(dim=-1)
        return (weight @ value).transpose(0, 1).flatten(1)

    return Case(name, tensors, run, exact, 4 * (len(number) + width))


CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "attention_rows": attentions,
    "slow_fast_conv2d": whole_maps,
    "slow_fast_ffn": feed_forwards,
    "sparse_conv2d": sparse_convs,
}
