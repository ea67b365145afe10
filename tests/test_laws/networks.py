"""The networks that the laws are run for: each dynamic class beside the stock class it must equal.

A new family is a new entry here, not a new test file.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from mmdet.models.backbones import SwinTransformer as DetSwin
from mmpretrain.models import ConvNeXt, VisionTransformer, ViTSAM
from mmseg.models.backbones import SwinTransformer as SegSwin
from torch import nn

from mmsparse.models import DynamicConvNeXt, DynamicSwin, DynamicViT

SIZES = [(224, 224), (512, 512), (200, 333)]
# every stage and nearly every block decides or follows a decision
EVERYWHERE = dict(places=[(0, 0), (1, 1), (2, 0), (2, 3), (3, 1)], keep_ratio=[0.6, 0.5, 0.7, 0.3, 0.4])


@dataclass(frozen=True)
class Network:
    name: str
    stock: Callable[..., nn.Module]
    dynamic: Callable[..., nn.Module]  # takes sparsity=
    deep_stage: int = 2  # one with at least four blocks
    everywhere: dict[str, Any] = field(default_factory=lambda: EVERYWHERE)
    explore: tuple[float, ...] = (1.0, 0.25)  # what it can

    def pair(self, sparsity: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
        """The stock network with lively weights, and a dynamic one with the same dense weights."""
        stock = self.stock()
        enliven(stock)
        return stock, self.like(stock, sparsity)

    def like(self, stock: nn.Module, sparsity: dict[str, Any]) -> nn.Module:
        dynamic = self.dynamic(sparsity=sparsity)
        enliven(dynamic)  # scorers and fast paths too
        result = dynamic.load_state_dict(stock.state_dict(), strict=False)
        assert not result.unexpected_keys
        return dynamic


def enliven(model: nn.Module) -> None:
    """Random values everywhere, so that no term is hidden behind a zero or a one; activations stay near one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(0.5 if name.endswith(("weight", "gamma")) else 0.0, 0.2)


def convnext(arch: str, v2: bool = False) -> Network:
    kwargs: dict[str, Any] = dict(arch=arch, out_indices=[0, 1, 2, 3], gap_before_final_norm=False)
    kwargs.update(dict(use_grn=True, layer_scale_init_value=0.0) if v2 else dict(layer_scale_init_value=1.0))
    name = f"convnext{'v2' if v2 else ''}-{arch}"
    return Network(name, partial(ConvNeXt, **kwargs), partial(DynamicConvNeXt, **kwargs))


SWIN = {
    "micro": dict(embed_dims=32, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8)),
    "tiny": dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    "small": dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    "base": dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
}


def swin(arch: str, stock: type[nn.Module] = SegSwin, skip_windows: bool = False) -> Network:
    kwargs: dict[str, Any] = dict(**SWIN[arch], drop_path_rate=0.0)

    def dynamic(sparsity: dict[str, Any] | None, **switches: Any) -> nn.Module:
        more = dict(skip_windows=True) if skip_windows else {}
        return DynamicSwin(**kwargs, **switches, sparsity=None if sparsity is None else {**sparsity, **more})

    name = f"swin-{arch}-{stock.__module__.split('.')[0]}{'-skip' if skip_windows else ''}"
    return Network(name, partial(stock, **kwargs), dynamic)


VIT = dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96)
VIT_EVERYWHERE = dict(places=[0, 1, 3], keep_ratio=[0.6, 0.7, 0.3])  # may come back
CUMULATIVE = dict(places=[0, 1, 3], keep_ratio=[0.8, 0.6, 0.3], cumulative=True)


def vit(everywhere: dict[str, Any], out_type: str = "featmap", **more: Any) -> Network:
    """``more`` as for the stock class; the last map is normed, so that all maps can be seen."""
    kwargs: dict[str, Any] = dict(arch=VIT, out_type=out_type, out_indices=[0, 1, 2, 3], **more)
    name = f"vit-micro-{out_type}{'' if more.get('with_cls_token', True) else '-no-class'}"
    name += "-cumulative" if "cumulative" in everywhere else ""
    dynamic = partial(_dynamic_vit, cumulative="cumulative" in everywhere, **kwargs)
    return Network(name, partial(VisionTransformer, **kwargs), dynamic, 0, everywhere, explore=(1.0,))


def vit_windows() -> Network:
    """ViTDet's blocks, as mmpretrain has them (for SAM): windows, some blocks global, no class token."""
    shared: dict[str, Any] = dict(out_indices=[0, 1, 2, 3], window_size=5)

    def stock() -> nn.Module:
        arch = dict(**VIT, global_attn_indexes=[1])
        model = ViTSAM(arch=arch, **shared, img_size=224, out_channels=0, use_rel_pos=False)
        model._register_state_dict_hook(_flat_positions)
        return model

    own: dict[str, Any] = dict(global_attn_indexes=[1], out_type="featmap", with_cls_token=False, final_norm=False)
    dynamic = partial(_dynamic_vit, arch=VIT, **shared, **own)
    return Network("vit-micro-windows", stock, dynamic, 0, VIT_EVERYWHERE, explore=(1.0,))


def deit(arch: str) -> Network:
    return Network(arch, partial(VisionTransformer, arch=arch), partial(_dynamic_vit, arch=arch, cumulative=True), 0)


def _dynamic_vit(sparsity: dict[str, Any] | None, cumulative: bool = False, **kwargs: Any) -> nn.Module:
    more = dict(cumulative=True) if cumulative else {}
    return DynamicViT(**kwargs, sparsity=None if sparsity is None else {**sparsity, **more})


def _flat_positions(model: nn.Module, state: dict[str, torch.Tensor], *_: Any) -> None:
    state["pos_embed"] = state["pos_embed"].flatten(1, 2)


CONVNEXTS = [convnext(arch) for arch in ("atto", "femto", "pico", "nano", "tiny", "small")]
SWINS = [swin("micro"), swin("micro", DetSwin), swin("micro", skip_windows=True), swin("tiny")]
VITS = [
    vit(VIT_EVERYWHERE),
    vit(VIT_EVERYWHERE, with_cls_token=False, layer_scale_init_value=0.5),
    vit(CUMULATIVE),
    vit(CUMULATIVE, out_type="cls_token"),
    vit_windows(),
]
ALL = CONVNEXTS + [convnext("atto", v2=True)] + SWINS + VITS
LIGHT = [convnext("atto"), convnext("atto", v2=True), swin("micro"), swin("micro", skip_windows=True), *VITS]
SELECTORS = ["TopKSelector", "GumbelSelector", "ThresholdSelector"]


def ids(network: Network) -> str:
    return network.name


def with_scorers(*scorers: str) -> list[Any]:
    """Every light network with every scorer that it can have."""
    return [
        pytest.param(network, scorer, id=f"{network.name}-{scorer}")
        for network in LIGHT
        for scorer in scorers
        if scorer != "AttentionScorer" or not network.name.startswith("convnext")
    ]
