"""LV-ViT: a plain transformer behind four convolutions, its residual branches divided by a number; routed as a ViT."""

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmsparse.apis import find_deciders
from mmsparse.models import DynamicViT
from mmsparse.registry import MODELS
from mmsparse.sparsity import record_decisions


def _arch(embed_dims: int, num_layers: int, num_heads: int) -> dict[str, int]:
    dims = dict(embed_dims=embed_dims, feedforward_channels=3 * embed_dims)
    return dict(**dims, num_layers=num_layers, num_heads=num_heads)


ARCHS = {"tiny": _arch(240, 12, 4), "small": _arch(384, 16, 6), "medium": _arch(512, 20, 8)}
SKIPS = {"tiny": 1.0}
SKIP = 2.0  # of all others


class ConvPatchEmbed(BaseModule):
    """Three convolutions at half of the picture's size, and patches of what they give.

    Pictures are filled up with zeros at the right and bottom to whole patches.
    """

    def __init__(self, in_channels: int, channels: int, embed_dims: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.conv1 = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(channels) for _ in range(3))
        self.projection = nn.Conv2d(channels, embed_dims, patch_size // 2, stride=patch_size // 2)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Pictures (B, C, H, W) to tokens (B, N, C) and their grid, as mmpretrain's ``PatchEmbed``."""
        x = F.pad(x, (0, -x.shape[3] % self.patch_size, 0, -x.shape[2] % self.patch_size))
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = norm(conv(x)).relu()
        x = self.projection(x)
        return x.flatten(2).transpose(1, 2), (int(x.shape[2]), int(x.shape[3]))


class Divided(nn.Module):
    """What a residual branch gives, divided; nothing of it is learned."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x / self.by


@MODELS.register_module()
class LVViT(DynamicViT):
    """:class:`mmsparse.DynamicViT` with LV-ViT's patch embedding and blocks.

    With ``out_type="raw"`` a token that was dropped for good is not given away: in its place stands another that was
    kept, so that the largest of all tokens is the largest of those kept.

    Args:
        arch: "tiny", "small" or "medium", or a dict as of ``mmpretrain.VisionTransformer``.
        skip: What residual branches are divided by; 1 for "tiny", otherwise 2.
        stem_channels: Width of the convolutions.
        kwargs: Arguments of ``mmsparse.DynamicViT``.
    """

    def __init__(
        self,
        arch: str | dict[str, int] = "small",
        *,
        skip: float | None = None,
        stem_channels: int = 64,
        patch_size: int = 16,
        in_channels: int = 3,
        **kwargs: Any,
    ) -> None:
        if isinstance(arch, str) and arch not in ARCHS:
            raise ValueError(f"LVViT: expected argument `arch` to be one of {list(ARCHS)} or a dict, but got {arch!r}")
        if skip is None:
            skip = SKIPS.get(arch, SKIP) if isinstance(arch, str) else SKIP
        if not isinstance(skip, int | float) or skip <= 0:
            raise ValueError(f"LVViT: expected argument `skip` to be positive, but got {skip!r}")
        if type(patch_size) is not int or patch_size < 2 or patch_size % 2:
            raise ValueError(f"LVViT: expected argument `patch_size` to be an even number, but got {patch_size!r}")
        if kwargs.get("layer_scale_init_value"):
            raise ValueError("LVViT: its branches are divided by `skip`. Remove `layer_scale_init_value`")
        own = dict(qkv_bias=False, norm_cfg=dict(type="LN", eps=1e-5))
        settings = ARCHS[arch] if isinstance(arch, str) else arch
        super().__init__(settings, patch_size=patch_size, in_channels=in_channels, **{**own, **kwargs})
        self.patch_embed = ConvPatchEmbed(in_channels, stem_channels, self.embed_dims, patch_size)
        for layer in self.layers:
            layer.attn.gamma1, layer.ffn.gamma2 = Divided(skip), Divided(skip)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.out_type != "raw" or self.router is None or not self.router.cumulative:
            return super().forward(x)
        with record_decisions(set(find_deciders(self))) as taken:
            outs = super().forward(x)
        if not taken or self.num_layers - 1 not in self.out_indices:
            return outs
        return (*outs[:-1], _of_kept(outs[-1], taken[-1][1].keep_mask))


def _of_kept(tokens: Tensor, kept: Tensor) -> Tensor:
    """Tokens (B, 1 + N, C), the class token first, with the first kept one in place of those that are not (B, N)."""
    first = kept.long().argmax(dim=1)
    one = tokens[:, 1:].gather(1, first[:, None, None].expand(-1, 1, tokens.shape[2]))
    return torch.cat([tokens[:, :1], torch.where(kept.unsqueeze(-1), tokens[:, 1:], one)], dim=1)
