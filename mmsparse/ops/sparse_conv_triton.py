"""The sparse convolution as one Triton kernel: a matrix product whose rows are read from the map as they are needed.

No patches lie in memory and nothing is padded. Imported with the first call on a GPU only, as Triton may be missing.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import tile_grid

# Locations, outputs and channels of a block, stages and warps. Tuning takes a moment for each shape, so few.
BLOCKS = [
    (64, 32, 32, 4, 4),
    (64, 64, 64, 4, 4),
    (64, 128, 64, 4, 4),
    (128, 64, 64, 4, 4),
    (128, 128, 32, 4, 4),
    (128, 128, 64, 3, 8),
    (128, 256, 64, 3, 8),
]


def _no_wider_than_needed(configs: list[triton.Config], _: dict[str, Any], **shape: Any) -> list[triton.Config]:
    width = max(configs[0].kwargs["N"], triton.next_power_of_2(shape["FEATURES"]))
    return [config for config in configs if config.kwargs["N"] <= width]


@triton.autotune(
    [triton.Config(dict(M=m, N=n, K=k), num_stages=stages, num_warps=warps) for m, n, k, stages, warps in BLOCKS],
    key=["magnitude", "CHANNELS", "FEATURES", "TILE", "KERNEL", "TO_MAP", "PRECISION"],
    prune_configs_by=dict(early_config_prune=_no_wider_than_needed),
)
@triton.jit(do_not_specialize=["locations", "magnitude", "height", "width", "high", "wide"])
def _kernel(
    rows,  # (B * H * W, C)
    weight,  # (D, k, k, C)
    bias,  # (D,)
    idx,  # (R,)
    out,  # (R * tile * tile, D), or those of whole maps of whole tiles
    locations,
    magnitude,  # of their number, so that it is not tuned anew for each picture
    height,
    width,
    high,
    wide,
    CHANNELS: tl.constexpr,  # each width of a network is tuned anew, and so compiled
    FEATURES: tl.constexpr,
    TILE: tl.constexpr,
    KERNEL: tl.constexpr,
    DILATION: tl.constexpr,
    BIAS: tl.constexpr,
    TO_MAP: tl.constexpr,
    PRECISION: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    across = tl.cdiv(FEATURES, N)
    m = tl.program_id(0) // across * M + tl.arange(0, M)  # neighbours in time read the same rows
    n = tl.program_id(0) % across * N + tl.arange(0, N)
    tile = tl.load(idx + m // (TILE * TILE), mask=m < locations, other=0).to(tl.int32)
    place = tile % (high * wide)
    top = tile // (high * wide) * height
    y = place // wide * TILE + m % (TILE * TILE) // TILE
    x = place % wide * TILE + m % TILE
    acc = tl.zeros((M, N), dtype=tl.float32)
    for step in range(tl.cdiv(CHANNELS, K) * KERNEL * KERNEL):  # all taps of some channels, then the next channels
        tap = step % (KERNEL * KERNEL)
        c = step // (KERNEL * KERNEL) * K + tl.arange(0, K)
        row = y + (tap // KERNEL - KERNEL // 2) * DILATION
        col = x + (tap % KERNEL - KERNEL // 2) * DILATION
        inside = (m < locations) & (row >= 0) & (row < height) & (col >= 0) & (col < width)
        source = ((top + row).to(tl.int64) * width + col) * CHANNELS  # a map may have more than 2^31 numbers
        a = tl.load(rows + source[:, None] + c[None, :], mask=inside[:, None] & (c < CHANNELS)[None, :], other=0.0)
        taps = (n * KERNEL * KERNEL + tap) * CHANNELS
        b = tl.load(
            weight + taps[None, :] + c[:, None], mask=(n < FEATURES)[None, :] & (c < CHANNELS)[:, None], other=0.0
        )
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    if BIAS:
        acc += tl.load(bias + n, mask=n < FEATURES, other=0.0).to(tl.float32)[None, :]
    target = m.to(tl.int64)
    if TO_MAP:
        target = (tile // (high * wide) * high * TILE + y).to(tl.int64) * wide * TILE + x
    tl.store(
        out + target[:, None] * FEATURES + n[None, :],
        acc.to(out.dtype.element_ty),
        mask=(m < locations)[:, None] & (n < FEATURES)[None, :],
    )


def conv_into(
    out: Tensor,
    rows: Tensor,
    size: tuple[int, int],
    weight: Tensor,
    bias: Tensor | None,
    idx: Tensor,
    tile: int,
    dilation: int,
    to_map: bool,
) -> None:
    """From the rows (B * H * W, C) of maps of a size to ``out``, (R * tile * tile, D).

    Or each ``to_map``, its place in all locations of all tiles, row by row of a map.
    """
    locations, (features, channels, _, kernel) = len(idx) * tile * tile, weight.shape
    for part in (weight, bias):
        if part is not None and part.dtype != rows.dtype:
            raise TypeError(f"Expected weight and bias to be {rows.dtype} as their map is, but got {part.dtype}")
    if locations == 0:
        return

    def grid(block: dict[str, Any]) -> tuple[int]:
        return (triton.cdiv(locations, block["M"]) * triton.cdiv(features, block["N"]),)

    with torch.cuda.device_of(rows):
        _kernel[grid](
            rows.contiguous(),
            weight.permute(0, 2, 3, 1).contiguous(),
            weight if bias is None else bias.contiguous(),
            idx.contiguous(),
            out,
            locations,
            locations.bit_length(),
            *size,
            *tile_grid(size, tile),
            CHANNELS=channels,
            FEATURES=features,
            TILE=tile,
            KERNEL=kernel,
            DILATION=dilation,
            BIAS=bias is not None,
            TO_MAP=to_map,
            PRECISION="tf32" if _allows_tf32(kernel) else "ieee",
        )


def _allows_tf32(kernel: int) -> bool:
    """Whether convolutions of float32 may round their factors; those of size 1 are matrix products."""
    if kernel == 1:
        settings = torch.backends.cuda.matmul
    else:
        settings = getattr(torch.backends.cudnn, "conv", torch.backends.cudnn)
    precision = getattr(settings, "fp32_precision", None)  # reading the older setting beside it may raise
    return settings.allow_tf32 if precision is None else precision == "tf32"
