"""Small vision transformers to slim."""

import torch

from mmsparse.models import DynamicViT
from projects.patch_slimming import SlimMasks

MICRO = dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96)


def micro(kind=DynamicViT, **more):
    return kind(**{**dict(arch=MICRO, img_size=96, out_type="featmap", final_norm=False), **more})


def lively(model):
    """Attention that is not flat."""
    for block in model.layers:
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.2)
    model.eval()
    return model


def pyramid(counts, grid=(6, 6), patch_size=16, last=None):
    """Nested masks of random tokens."""
    order = torch.stack([torch.randperm(grid[0] * grid[1])] * len(counts))
    kept = torch.stack([ranks >= len(ranks) - count for ranks, count in zip(order, counts, strict=True)])
    return SlimMasks(grid, patch_size, kept, order)
