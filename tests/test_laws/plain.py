"""Routed networks written plainly: a stock network, both paths on all of its locations, and masks that choose.

Each function below turns what a stock block or convolution gave into what the routed one must give.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models.backbones.vit_sam import get_rel_pos
from torch import Tensor, nn

Masks = dict[str, Tensor]  # of the locations that go slow (B, N), by the name of the decision


def masks_by_block(depths: list[int], places: list[tuple[int, int]], names: list[str], masks: Masks) -> list[Any]:
    """(stage, block, mask, mask of the block before), for every block that some selection holds for."""
    found = []
    for stage, depth in enumerate(depths):
        current = None
        for block in range(depth):
            before = current
            if (stage, block) in places:
                current = masks.get(names[places.index((stage, block))])
            if current is not None:
                found.append((stage, block, current, before))
    return found


def convnext(stock: nn.Module, dynamic: nn.Module, masks: Masks) -> None:
    places = list(dynamic.router.places)
    names = [decision.name for decision in dynamic.router.dials]
    for stage, block, mask, _ in masks_by_block(stock.depths, places, names, masks):
        fast = dynamic.router.fast_paths[f"{stage}_{block}"]
        stock.stages[stage][block].register_forward_hook(partial(_convnext, mask=mask, fast=fast))


def _convnext(block: nn.Module, args: tuple, out: Tensor, mask: Tensor, fast: nn.Module) -> Tensor:
    x = args[0]
    h = block.depthwise_conv(x).permute(0, 2, 3, 1)  # (B, H, W, C)
    keep = mask.view(*h.shape[:3], 1)
    slow = (out - x).permute(0, 2, 3, 1) if block.grn is None else _response_normed(block, h, keep)
    return x + torch.where(keep, slow, fast(h.flatten(0, 2)).view(h.shape)).permute(0, 3, 1, 2)


def _response_normed(block: nn.Module, h: Tensor, keep: Tensor) -> Tensor:
    """The channel mixing of v2 whose statistics are of the kept locations."""
    first, second = block.pointwise_conv1, block.pointwise_conv2
    h = block.act(F.linear(block.norm(h, data_format="channel_last"), first.weight.flatten(1), first.bias))
    energy = (h * keep).square().sum(dim=(1, 2), keepdim=True).clamp_min(1e-300).sqrt()
    h = block.grn.gamma * (h * energy / (energy.mean(dim=-1, keepdim=True) + block.grn.eps)) + block.grn.beta + h
    h = F.linear(h, second.weight.flatten(1), second.bias)
    return h if block.gamma is None else h * block.gamma


def swin(stock: nn.Module, dynamic: nn.Module, masks: Masks) -> None:
    places = list(dynamic.router.places)
    names = [decision.name for decision in dynamic.router.dials]
    for stage, block, mask, _ in masks_by_block(dynamic.routed_stages()[0], places, names, masks):
        fast = dynamic.router.fast_paths[f"{stage}_{block}"]
        hook = partial(_swin, mask=mask, fast=fast, skip=dynamic.skip_windows)
        stock.stages[stage].blocks[block].register_forward_hook(hook)


def _swin(block: nn.Module, args: tuple, _: Tensor, mask: Tensor, fast: nn.Module, skip: bool) -> Tensor:
    x, grid = args
    mixed = block.attn(block.norm1(x), grid)
    if skip:
        mixed = mixed * _in_busy_windows(mask.view(-1, 1, *grid), block.attn.window_size, block.attn.shift_size)
    x = x + mixed
    return torch.where(mask.unsqueeze(-1), block.ffn(block.norm2(x), identity=x), x + fast(x))


def _in_busy_windows(mask: Tensor, size: int, shift: int) -> Tensor:
    """1 where a location's (shifted) window holds one that is kept, (B, N, 1)."""
    high, wide = mask.shape[-2:]
    padded = F.pad(mask.double(), (0, -wide % size, 0, -high % size)).roll((-shift, -shift), (2, 3))
    busy = F.max_pool2d(padded, size).repeat_interleave(size, dim=2).repeat_interleave(size, dim=3)
    return busy.roll((shift, shift), (2, 3))[..., :high, :wide].flatten(2).transpose(1, 2)


def resnet(stock: nn.Module, dynamic: nn.Module, masks: Masks) -> None:
    places = list(dynamic.router.places)
    names = [decision.name for decision in dynamic.router.dials]
    for stage, block, mask, _ in masks_by_block(list(stock.stage_blocks), places, names, masks):
        fast = dynamic.router.fast_paths[f"{stage}_{block}"]
        hook = partial(_resnet, mask=mask, fast=fast, tile=dynamic.tile)
        getattr(stock, stock.res_layers[stage])[block].register_forward_hook(hook)


def _resnet(block: nn.Module, args: tuple, out: Tensor, mask: Tensor, fast: nn.Module, tile: int) -> Tensor:
    x = args[0]
    high, wide = (-(-side // tile) for side in x.shape[-2:])
    keep = mask.view(-1, 1, high, wide).repeat_interleave(tile, dim=2).repeat_interleave(tile, dim=3)
    rows = x.permute(0, 2, 3, 1)
    other = (rows + fast(rows.flatten(0, 2)).view(rows.shape)).relu().permute(0, 3, 1, 2)
    return torch.where(keep[..., : x.shape[2], : x.shape[3]], out, other)


def vit(stock: nn.Module, dynamic: nn.Module, masks: Masks) -> None:
    places = list(dynamic.router.places)
    names = [decision.name for decision in dynamic.router.dials]
    for _, block, mask, before in masks_by_block([len(stock.layers)], places, names, masks):
        hook = partial(
            _vit,
            mask=mask,
            keys=before if dynamic.router.keys == "entering" else mask,
            fast=dynamic.router.fast_paths[f"0_{block}"],
            extra=dynamic.num_extra_tokens,
            window=dynamic.windows[block],
        )
        stock.layers[block].register_forward_hook(hook)


def _vit(
    layer: nn.Module,
    args: tuple,
    _: Tensor,
    mask: Tensor,
    keys: Tensor | None,
    fast: nn.Module,
    extra: int,
    window: int,
) -> Tensor:
    """A token that is not kept is nobody's key; padded cells of windows are keys of zeros behind the norm."""
    shape, grid = args[0].shape, args[0].shape[1:3]  # ViTSAM's are maps, without a class token
    told = args[1] if len(args) > 1 else None  # BEiT's layers share a bias, or have their own; EVA-02's know the size
    x = args[0].flatten(1, -2)
    keep = F.pad(mask, (extra, 0), value=True)
    keys = torch.ones_like(keep) if keys is None else F.pad(keys, (extra, 0), value=True)
    h = layer.norm1(x)
    if window:
        border = (0, -grid[1] % window, 0, -grid[0] % window)
        h = F.pad(h.view(shape), (0, 0, *border)).flatten(1, 2)
        keys = F.pad(keys.view(shape[:3]), border, value=True)
        down, right = (torch.arange(side) // window for side in keys.shape[1:])
        room, keys = (down[:, None] * 1000 + right).flatten(), keys.flatten(1)
    else:
        room = torch.zeros(h.shape[1])
    seen = (room[:, None] == room) & (keys[:, None, :] | torch.eye(len(room), dtype=torch.bool))  # (B, n, n)
    mixed = _attention(layer.attn, h, seen, grid if told is None or isinstance(told, Tensor) else told, told, window)
    if window:
        mixed = mixed.unflatten(1, (grid[0] + border[3], -1))[:, : grid[0], : grid[1]].flatten(1, 2)
    if hasattr(layer, "mlp"):
        slow = x + mixed
        slow = slow + layer.mlp(layer.norm2(slow))
    elif hasattr(layer, "gamma_1"):
        slow = x + (1.0 if layer.gamma_1 is None else layer.gamma_1) * mixed
        slow = slow + (1.0 if layer.gamma_2 is None else layer.gamma_2) * layer.ffn(layer.norm2(slow))
    else:
        slow = x + mixed
        slow = layer.ffn(layer.ln2(slow), identity=slow)
    return torch.where(keep.unsqueeze(-1), slow, x + fast(x)).view(shape)


def _attention(attn: nn.Module, h: Tensor, seen: Tensor, grid: tuple[int, int], told: Any, window: int) -> Tensor:
    if hasattr(attn, "q_bias"):
        zeros = torch.zeros_like(attn.q_bias)
        projected = F.linear(h, attn.qkv.weight, torch.cat([attn.q_bias, zeros, attn.v_bias]))
    else:
        projected = attn.qkv(h)
    query, key, value = projected.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, n, d)
    logits: Any = 0.0
    if hasattr(attn, "rope"):
        extra = query.shape[2] - grid[0] * grid[1]
        query, key = (torch.cat([t[:, :, :extra], attn.rope(t[:, :, extra:], grid)], dim=2) for t in (query, key))
    elif getattr(attn, "use_rel_pos", False):
        logits = _decomposed(attn, query, grid, window)
    elif getattr(attn, "relative_position_bias_table", None) is not None:
        logits = attn.relative_position_bias_table[attn.relative_position_index].permute(2, 0, 1)
    elif isinstance(told, Tensor):
        logits = told
    logits = logits + query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    weights = logits.masked_fill(~seen.unsqueeze(1), -torch.inf).softmax(dim=-1)
    mixed = attn.proj((weights @ value).transpose(1, 2).flatten(2))
    return attn.gamma1(mixed) if hasattr(attn, "gamma1") else mixed


def _decomposed(attn: nn.Module, query: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """Each query times the vector of each key's difference in rows, and in columns; within windows, if there are."""
    height, width = (-(-side // window) * window if window else side for side in grid)
    cells = torch.arange(height * width)
    total: Any = 0.0
    for table, place, side in ((attn.rel_pos_h, cells // width, height), (attn.rel_pos_w, cells % width, width)):
        side, place = (window, place % window) if window else (side, place)
        vectors = get_rel_pos(side, side, table)[place[:, None], place[None, :]]  # (n, n, d)
        total = total + torch.einsum("bhic,ijc->bhij", query, vectors)
    return total


def pyramid(stock: nn.Module, dynamic: nn.Module, masks: Masks) -> None:
    """A neck or head: its routed convolutions are those that are not torch's own any more."""
    router, own = dynamic.part.router, dict(stock.part.named_modules())
    names = [decision.name for decision in router.dials]
    for name, conv in dynamic.part.named_modules():
        if isinstance(conv, nn.Conv2d) and type(conv) is not nn.Conv2d:
            mine = names if router.shared else [other for other in names if other.partition(".")[2] == name]
            turns = [masks.get(other) for other in mine]
            own[name].register_forward_hook(_Convolution(turns, router.fast_path(name), router.tile))


class _Convolution:
    """Of the maps of a pyramid in turn, from the finest; those beyond the routed ones are dense."""

    def __init__(self, masks: list[Tensor | None], fast: Callable, tile: int) -> None:
        self.masks, self.fast, self.tile, self.turn = masks, fast, tile, 0

    def __call__(self, conv: nn.Module, args: tuple, out: Tensor) -> Tensor:
        x, mask = args[0], self.masks[self.turn] if self.turn < len(self.masks) else None
        self.turn += 1
        if mask is None:
            return out
        high, wide = (-(-side // self.tile) for side in x.shape[-2:])
        keep = mask.view(-1, 1, high, wide).repeat_interleave(self.tile, dim=2).repeat_interleave(self.tile, dim=3)
        weight = conv.weight.sum(dim=(2, 3)) + self.fast.weight
        bias = self.fast.bias if conv.bias is None else conv.bias + self.fast.bias
        light = F.conv2d(x, weight[:, :, None, None], bias)
        return torch.where(keep[..., : x.shape[-2], : x.shape[-1]], out, light)
