"""The networks that the laws are run for: each dynamic class beside the stock class it must equal.

A new family is a new entry here, not a new test file.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.models import backbones, dense_heads, necks
from mmdet.models.backbones import SwinTransformer as DetSwin
from mmdet.models.layers import DeformableDetrTransformerEncoder, MSDeformAttnPixelDecoder
from mmengine.config import ConfigDict
from mmpretrain.models import BEiTViT, ConvNeXt, VisionTransformer, ViTEVA02, ViTSAM
from mmseg.models import backbones as seg_backbones
from mmseg.models import decode_heads
from mmseg.models import necks as seg_necks
from mmseg.models.backbones import SwinTransformer as SegSwin
from torch import Tensor, nn
from torch.func import functional_call

import projects.ats
import projects.sait
import projects.template  # noqa: F401
from mmsparse import models as ours
from mmsparse import set_keep_ratio
from mmsparse.models import DynamicBEiT, DynamicConvNeXt, DynamicSwin, DynamicViT, DynamicViTEVA02, DynamicViTSAM
from mmsparse.models.encoders.deformable import DeformableEncoder
from projects.adavit import AdaViT
from projects.patch_slimming import SlimMasks, SlimViT
from projects.sparsifiner import SparsifinerViT
from projects.tpc import TPCViT

FILES = tempfile.TemporaryDirectory()
# every stage and nearly every block decides or follows a decision
EVERYWHERE = dict(places=[(0, 0), (1, 1), (2, 0), (2, 3), (3, 1)], keep_ratio=[0.6, 0.5, 0.7, 0.3, 0.4])


@dataclass(frozen=True)
class Network:
    name: str
    stock: Callable[..., nn.Module]
    dynamic: Callable[..., nn.Module]  # takes sparsity=
    everywhere: dict[str, Any] = field(default_factory=lambda: EVERYWHERE)
    some: dict[str, Any] = field(default_factory=lambda: dict(places=[(2, 1), (2, 3)], keep_ratio=[0.7, 0.3]))
    explore: tuple[float, ...] = (1.0, 0.25)  # what it can
    attends: bool = False  # has attention that scorers may read
    apart: str = "-"  # in the names of new parameters that only a loss of their own teaches

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


def precise(network: Network) -> torch.dtype:
    """What a network is compared with another kernel's in, or in another memory layout: each CPU rounds differently.

    Double precision, unless a CPU lacks a quick kernel for it, as for depthwise convolutions.
    """
    return torch.float32 if network.name.startswith("convnext") else torch.float64


def enliven(model: nn.Module) -> None:
    """Random values everywhere, so that no term is hidden behind a zero or a one; activations stay near one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(0.5 if name.endswith(("weight", "gamma")) else 0.0, 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)


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
    return Network(name, partial(stock, **kwargs), dynamic, attends=True)


RESIDUAL = dict(places=[(0, 1), (1, 1), (2, 1), (2, 3), (3, 1)], keep_ratio=[0.6, 0.5, 0.7, 0.3, 0.4])


def resnet(kind: str = "ResNet", depth: int = 50, tile: int = 2, **more: Any) -> Network:
    """Of few channels. Its batch norms are evaluated in training, too, as in mmdet."""
    kwargs: dict[str, Any] = dict(depth=depth, base_channels=8, **more)

    def dynamic(sparsity: dict[str, Any] | None, **switches: Any) -> nn.Module:
        own = None if sparsity is None else {"tile": tile, **sparsity}
        return getattr(ours, f"Dynamic{kind}")(**kwargs, **switches, sparsity=own)

    return Network(f"{kind.lower()}-{depth}", partial(getattr(backbones, kind), **kwargs), dynamic, RESIDUAL)


VIT = dict(embed_dims=48, num_layers=4, num_heads=3, feedforward_channels=96)
VIT_EVERYWHERE = dict(places=[0, 1, 3], keep_ratio=[0.6, 0.7, 0.3])  # may come back
CUMULATIVE = dict(places=[0, 1, 3], keep_ratio=[0.8, 0.6, 0.3], cumulative=True)
ENTERING = dict(**CUMULATIVE, keys="entering")


def vit(everywhere: dict[str, Any], out_type: str = "featmap", **more: Any) -> Network:
    """``more`` as for the stock class; the last map is normed, so that all maps can be seen."""
    kwargs: dict[str, Any] = dict(arch=VIT, out_type=out_type, out_indices=[0, 1, 2, 3], **more)
    name = f"vit-micro-{out_type}{'' if more.get('with_cls_token', True) else '-no-class'}"
    always = {key: everywhere[key] for key in ("cumulative", "keys") if key in everywhere}
    name += "-entering" if "keys" in always else "-cumulative" if always else ""
    dynamic = partial(_dynamic_vit, always=always, **kwargs)
    return _plain(name, partial(VisionTransformer, **kwargs), dynamic, everywhere)


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
    return _plain("vit-micro-windows", stock, dynamic, VIT_EVERYWHERE)


def deit(arch: str) -> Network:
    return _plain(
        arch, partial(VisionTransformer, arch=arch), partial(_dynamic_vit, arch=arch, always=dict(cumulative=True)), {}
    )


def _plain(name: str, stock: Callable, dynamic: Callable, everywhere: dict[str, Any]) -> Network:
    some = dict(places=[1, 3], keep_ratio=[0.7, 0.3])
    packs = not any(word in name for word in ("windows", "entering", "slim", "sparsifiner"))
    return Network(name, stock, dynamic, everywhere, some, explore=(1.0, 0.25) if packs else (1.0,), attends=True)


def _dynamic_vit(
    sparsity: dict[str, Any] | None,
    always: Mapping[str, Any] = {},
    kind: type[nn.Module] = DynamicViT,
    **kwargs: Any,
) -> nn.Module:
    return kind(**kwargs, sparsity=None if sparsity is None else {**sparsity, **always})


class WithRegisters(VisionTransformer):
    """The stock layers, given tokens behind the class token that have no position."""

    def __init__(self, num_registers: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_tokens = nn.Parameter(torch.zeros(1, num_registers, self.embed_dims))

    def pre_norm(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)

    def _format_output(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return super()._format_output(torch.cat([x[:, :1], x[:, 1 + self.register_tokens.shape[1] :]], dim=1), size)


def registers() -> Network:
    kwargs: dict[str, Any] = dict(arch=VIT, out_type="featmap", out_indices=[0, 1, 2, 3], num_registers=3)
    dynamic = partial(_dynamic_vit, **kwargs)
    return _plain("vit-micro-registers", partial(WithRegisters, **kwargs), dynamic, VIT_EVERYWHERE)


class BEiTOfAnySize(BEiTViT):
    """The stock class, which takes pictures of one size: at others, one of that size with the middle of the tables."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kwargs = kwargs

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        of_that_size = BEiTViT(**{**self.kwargs, "img_size": x.shape[-2:]}).to(x)
        of_that_size.train(self.training)
        values = {
            name: self._middle(value, of_that_size.patch_resolution) if name.endswith("bias_table") else value
            for name, value in self.named_parameters()
        }
        return functional_call(of_that_size, values, (x,))

    def _middle(self, table: Tensor, size: tuple[int, int]) -> Tensor:
        (height, width), (down, right) = self.patch_resolution, size
        map_, extra = table[:-3].unflatten(0, (2 * height - 1, 2 * width - 1)), table[-3:]
        map_ = map_[height - down : height + down - 1, width - right : width + right - 1]
        return torch.cat([map_.flatten(0, 1), extra])


def beit(everywhere: dict[str, Any], **more: Any) -> Network:
    kwargs: dict[str, Any] = dict(arch=VIT, img_size=512, out_type="featmap", out_indices=[0, 1, 2, 3], **more)
    always = {key: everywhere[key] for key in ("cumulative", "keys") if key in everywhere}
    name = f"beit{'-shared' if 'use_shared_rel_pos_bias' in more else ''}{'-entering' if 'keys' in always else ''}"
    dynamic = partial(_dynamic_vit, kind=DynamicBEiT, always=always, **kwargs)
    return _plain(name, partial(BEiTOfAnySize, **kwargs), dynamic, everywhere)


def sam() -> Network:
    """Windows and some global blocks, all with decomposed relative positions."""
    arch = dict(**VIT, global_attn_indexes=[1])
    kwargs: dict[str, Any] = dict(arch=arch, out_indices=[0, 1, 2, 3], window_size=5, out_channels=0)
    dynamic = partial(_dynamic_vit, kind=DynamicViTSAM, **kwargs)
    return _plain("sam-windows", partial(ViTSAM, **kwargs), dynamic, VIT_EVERYWHERE)


def eva02() -> Network:
    kwargs: dict[str, Any] = dict(arch=VIT, out_type="featmap", out_indices=[0, 1, 2, 3])
    dynamic = partial(_dynamic_vit, kind=DynamicViTEVA02, **kwargs)
    return _plain("eva02", partial(ViTEVA02, **kwargs), dynamic, VIT_EVERYWHERE)


def sparsifiner() -> Network:
    """Few keys for each query, unless everything is kept."""
    kwargs: dict[str, Any] = dict(arch=VIT, out_type="featmap", out_indices=[0, 1, 2, 3], with_cls_token=False)

    def dynamic(sparsity: dict[str, Any] | None, **switches: Any) -> nn.Module:
        keep_ratio = 1.0 if sparsity == dict(keep_ratio=1.0) else 0.3
        connectivity = None if sparsity is None else dict(keep_ratio=keep_ratio, coefficients=4, rank=12)
        model = SparsifinerViT(**kwargs, **switches, sparsity=sparsity, connectivity=connectivity)
        if model.predictor is not None:
            model.predictor.reconstructing = False  # the second stage; the first is the dense network
        return model

    plain = _plain("sparsifiner", partial(VisionTransformer, **kwargs), dynamic, VIT_EVERYWHERE)
    return replace(plain, apart="predictor")


class Stabilised(Network):
    """Of the stock network's values as long as its stabiliser, which enlivening fills, is zero."""

    def like(self, stock: nn.Module, sparsity: dict[str, Any]) -> nn.Module:
        dynamic = super().like(stock, sparsity)
        nn.init.zeros_(dynamic.stabiliser.weight)
        nn.init.zeros_(dynamic.stabiliser.bias)
        return dynamic


def tpc() -> Network:
    """One scorer of its own for all places, unless another is asked for."""
    own = dict(scorer=dict(type="PropagationScorer"), share_scorer=True)
    kwargs: dict[str, Any] = dict(arch=VIT, out_type="featmap", out_indices=[0, 1, 2, 3])

    def dynamic(sparsity: dict[str, Any] | None, **switches: Any) -> nn.Module:
        if sparsity is not None and "scorer" not in sparsity:
            sparsity = {**sparsity, **own}
        return TPCViT(**kwargs, **switches, sparsity=sparsity)

    plain = _plain("tpc", partial(VisionTransformer, **kwargs), dynamic, VIT_EVERYWHERE)
    return Stabilised(**vars(replace(plain, apart="stabiliser", some=dict(places=[1, 3], keep_ratio=[0.5, 0.5]))))


class Unskipping(Network):
    """Whose policy, which enlivening fills, uses all heads and layers, drawn or not; computed one by one."""

    def like(self, stock: nn.Module, sparsity: dict[str, Any]) -> nn.Module:
        dynamic = super().like(stock, sparsity)
        for choice in dynamic.policy.dials:
            nn.init.constant_(choice.linear.bias, 1e3)
        return dynamic


def adavit() -> Network:
    kwargs: dict[str, Any] = dict(arch=VIT, out_type="featmap", out_indices=[0, 1, 2, 3])

    def dynamic(sparsity: dict[str, Any] | None, **switches: Any) -> nn.Module:
        policy = None if sparsity is None else dict(first=0)
        return AdaViT(**kwargs, **switches, sparsity=sparsity, policy=policy)

    plain = _plain("adavit", partial(VisionTransformer, **kwargs), dynamic, VIT_EVERYWHERE)
    return Unskipping(**vars(replace(plain, apart="policy")))


def slim() -> Network:
    """With the masks of a file; where a law brings a selector, chosen picture by picture, as many as the masks keep."""
    kwargs: dict[str, Any] = dict(arch=VIT, out_type="featmap", out_indices=[0, 1, 2, 3])

    def dynamic(sparsity: dict[str, Any] | None, **switches: Any) -> nn.Module:
        if sparsity is None:
            return DynamicViT(**kwargs, **switches)
        own = {key: value for key, value in sparsity.items() if key not in ("places", "keep_ratio")}
        if own or "places" not in sparsity:
            own.setdefault("scorer", dict(type="LocalGlobalScorer"))
            own.setdefault("selector", dict(type="TopKSelector"))
        model = SlimViT(**kwargs, **switches, masks=_masks(), sparsity=own)
        if "places" not in sparsity:
            set_keep_ratio(model, sparsity["keep_ratio"])
        return model

    everywhere = dict(places=[0, 1, 3], keep_ratio=[0.8, 0.6, 0.3])
    return replace(_plain("slim", partial(VisionTransformer, **kwargs), dynamic, everywhere), some=everywhere)


@cache
def _masks() -> str:
    """Those of ``slim``: nested, on the grid of a picture of 224x224."""
    order = torch.randperm(196, generator=torch.Generator().manual_seed(0)).expand(4, -1)
    counts = torch.tensor([157, 118, 118, 59]).unsqueeze(1)
    path = str(Path(FILES.name, "masks.json"))
    SlimMasks((14, 14), 16, order >= 196 - counts, order.clone()).write(path)
    return path


def _flat_positions(model: nn.Module, state: dict[str, torch.Tensor], *_: Any) -> None:
    state["pos_embed"] = state["pos_embed"].flatten(1, 2)


class OnPyramid(nn.Module):
    """A neck or head behind a plain stem that makes maps of strides 4, 8, 16, ... from a picture."""

    def __init__(self, part: nn.Module, levels: int, channels: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(3, channels, 5, stride=4, padding=2)]
        convs += [nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(levels - 1)]
        self.stem = nn.ModuleList(convs)
        self.part = part

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for conv in self.stem:
            x = conv(x).tanh()
            maps.append(x)
        return tuple(_tensors(self.part(tuple(maps))))


def _tensors(tree: Any) -> list[Tensor]:
    return [tree] if isinstance(tree, Tensor) else [t for part in tree for t in _tensors(part)]


def on_pyramid(
    part: str, room: Any, levels: int, decisions: int, tile: int = 2, coarse: bool = False, **kwargs: Any
) -> Network:
    """A stock neck or head of ``room`` beside ours; it takes so many levels and takes so many decisions."""

    def dynamic(sparsity: dict[str, Any] | None) -> nn.Module:
        return OnPyramid(getattr(ours, f"Dynamic{part}")(**kwargs, sparsity=sparsity), levels, 8)

    def stock() -> nn.Module:
        return OnPyramid(getattr(room, part)(**kwargs), levels, 8)

    ratios = [0.6, 0.5, 0.7, 0.3, 0.4, 0.6, 0.5][:decisions]
    quick = dict(type="MLPScorer", hidden=64)  # the default of so few channels would learn too slowly for a test
    some = dict(keep_ratio=ratios, tile=1, scorer=quick)
    everywhere = dict(keep_ratio=ratios, tile=tile)
    if coarse:
        everywhere, some = {**everywhere, "coarse": True}, {**some, "tile": tile, "coarse": True}
    return Network(f"{part}-coarse" if coarse else part, stock, dynamic, everywhere, some)


class OnTokens(nn.Module):
    """The encoder of a detector, given the levels of a pyramid as one row of tokens."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        shapes = torch.tensor([m.shape[2:] for m in maps])
        counts = shapes.prod(1)
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        refined = self.encoder(
            query=tokens,
            query_pos=tokens.roll(1, dims=2),
            key_padding_mask=None,
            spatial_shapes=shapes,
            level_start_index=counts.cumsum(0) - counts,
            valid_ratios=tokens.new_ones(len(tokens), len(maps), 2),
        )
        parts = refined.split(counts.tolist(), dim=1)
        return [part.transpose(1, 2).unflatten(2, tuple(m.shape[2:])) for part, m in zip(parts, maps, strict=True)]


def _layers() -> dict[str, Any]:
    """Arguments of a small deformable encoder of three levels; the stock classes write into them."""
    attention = dict(embed_dims=8, num_heads=2, num_levels=3, num_points=2, dropout=0.0)
    return dict(num_layers=2, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=dict(embed_dims=8, ffn_drop=0.0)))


def encoder(pixels: bool = False) -> Network:
    """A detector's, or in a decoder of ``pixels``. The coarsest level is not routed; one decides for both layers."""
    decoder = dict(in_channels=[8] * 4, feat_channels=8, out_channels=8, norm_cfg=_norm, strides=[4, 8, 16, 32])
    decoder.update(positional_encoding=dict(num_feats=4, normalize=True))

    def stock() -> nn.Module:
        if pixels:
            return OnPyramid(MSDeformAttnPixelDecoder(**decoder, encoder=ConfigDict(_layers())), 4, 8)
        return OnPyramid(OnTokens(DeformableDetrTransformerEncoder(**_layers())), 3, 8)

    def dynamic(sparsity: dict[str, Any] | None) -> nn.Module:
        own = sparsity and {"levels": 2, **sparsity}
        if pixels:
            made = ours.DynamicMSDeformAttnPixelDecoder(**decoder, encoder=_layers(), sparsity=own)
            return OnPyramid(made, 4, 8)
        if own is None:
            return stock()
        return OnPyramid(OnTokens(DeformableEncoder(**_layers(), sparsity=own, owner="DynamicDINO")), 3, 8)

    ratios = dict(keep_ratio=[0.6, 0.3, 0.5] if pixels else [0.6, 0.3])
    everywhere = dict(**ratios, fast_path=dict(type="LinearFastPath"))
    some = dict(**ratios, scorer=dict(type="MLPScorer", hidden=64))
    return Network("pixel-decoder" if pixels else "encoder", stock, dynamic, everywhere, some)


ANCHORS = dict(type="AnchorGenerator", octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[4, 8, 16, 32])
_neck = dict(in_channels=[8, 8, 8, 8], out_channels=12)
_dense = dict(num_classes=3, in_channels=8, feat_channels=8)
_norm = dict(type="GN", num_groups=2)
_decode: dict[str, Any] = dict(in_index=[0, 1, 2, 3], dropout_ratio=0.0, num_classes=3, norm_cfg=_norm)
NECKS = [
    on_pyramid("FPN", necks, 4, 3, **_neck, num_outs=6, add_extra_convs="on_input"),
    on_pyramid("PAFPN", necks, 4, 5, **_neck, num_outs=5, norm_cfg=_norm),
    on_pyramid("ChannelMapper", necks, 4, 3, tile=1, **_neck, num_outs=5),
]
HEADS = [
    on_pyramid("RPNHead", dense_heads, 4, 3, in_channels=8, feat_channels=8, anchor_generator=ANCHORS),
    on_pyramid("RetinaHead", dense_heads, 4, 3, **_dense, stacked_convs=2, anchor_generator=ANCHORS),
    on_pyramid("RetinaHead", dense_heads, 4, 3, 4, True, **_dense, stacked_convs=2, anchor_generator=ANCHORS),
    on_pyramid("FCOSHead", dense_heads, 4, 3, **_dense, stacked_convs=2, norm_cfg=_norm, strides=[4, 8, 16, 32]),
    on_pyramid("ATSSHead", dense_heads, 4, 3, **_dense, stacked_convs=2, norm_cfg=_norm, anchor_generator=ANCHORS),
    on_pyramid(
        *("ATSSHead", dense_heads, 4, 3, 4, True), **_dense, stacked_convs=2, norm_cfg=_norm, anchor_generator=ANCHORS
    ),
    on_pyramid("GFLHead", dense_heads, 4, 3, **_dense, stacked_convs=2, norm_cfg=_norm, anchor_generator=ANCHORS),
    on_pyramid("UPerHead", decode_heads, 4, 4, **_decode, in_channels=[8] * 4, channels=8, pool_scales=(1, 2)),
    on_pyramid(
        "FPNHead", decode_heads, 4, 6, **_decode, in_channels=[8] * 4, channels=8, feature_strides=[4, 8, 16, 32]
    ),
]


def of_convs(kind: str, room: Any, decisions: int, tile: int = 2, **kwargs: Any) -> Network:
    """A backbone of convolutions of ``room`` beside ours; its batch norms have statistics."""
    own = f"Dynamic{'Seg' if (room, kind) == (seg_backbones, 'HRNet') else ''}{kind}"
    ratios = [0.6, 0.5, 0.7, 0.3, 0.4, 0.6, 0.5, 0.4, 0.6, 0.7, 0.5][:decisions]

    def dynamic(sparsity: dict[str, Any] | None) -> nn.Module:
        return getattr(ours, own)(**kwargs, sparsity=sparsity)

    some = dict(keep_ratio=ratios, tile=1, scorer=dict(type="MLPScorer", hidden=64))
    everywhere = dict(keep_ratio=ratios, tile=tile)
    return Network(own.removeprefix("Dynamic"), partial(getattr(room, kind), **kwargs), dynamic, everywhere, some)


def _branches(modules: int, block: str, blocks: int, *widths: int) -> dict[str, Any]:
    count = len(widths)
    return dict(num_modules=modules, num_branches=count, block=block, num_blocks=(blocks,) * count, num_channels=widths)


_hr = dict(
    extra=dict(
        stage1=_branches(1, "BOTTLENECK", 1, 8),
        stage2=_branches(1, "BASIC", 1, 8, 8),
        stage3=_branches(1, "BASIC", 1, 8, 8, 8),
        stage4=_branches(1, "BASIC", 1, 8, 8, 8, 8),
    )
)
_levels = dict(num_classes=3, in_channels=8, feat_channels=8)
_points = dict(type="MlvlPointGenerator", offset=0, strides=[4, 8, 16])
_rtmdet = dict(**_levels, stacked_convs=2, anchor_generator=_points, bbox_coder=dict(type="DistancePointBBoxCoder"))
_one_map = {**_decode, "in_index": 0, "in_channels": 8, "channels": 8}
HEADS += [
    on_pyramid("ASPPHead", decode_heads, 1, 4, **_one_map, dilations=(1, 2, 6, 3)),
    on_pyramid("RTMDetSepBNHead", dense_heads, 3, 3, **_rtmdet, norm_cfg=_norm),
]
ENCODERS = [encoder()]
OF_CONVS = [of_convs("HRNet", seg_backbones, 11, **_hr, norm_eval=True)]
CONVNEXTS = [convnext(arch) for arch in ("atto", "femto", "pico", "nano", "tiny", "small")]
SWINS = [swin("micro"), swin("micro", DetSwin), swin("micro", skip_windows=True), swin("tiny")]
RESNETS = [
    resnet(),
    resnet(depth=34, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 2)),
    resnet("ResNetV1d", tile=1),
    resnet("ResNeXt", groups=4, base_width=16),
]
VITS = [
    vit(VIT_EVERYWHERE),
    vit(VIT_EVERYWHERE, with_cls_token=False, layer_scale_init_value=0.5),
    vit(CUMULATIVE),
    vit(CUMULATIVE, out_type="cls_token"),
    vit(ENTERING),
    vit_windows(),
    beit(VIT_EVERYWHERE),
    beit(ENTERING, use_rel_pos_bias=False, use_shared_rel_pos_bias=True, bias=True),
    sam(),
    eva02(),
    registers(),
    sparsifiner(),
    tpc(),
    adavit(),
    slim(),
]
# Of the same mechanisms as others, and some of them for pictures of whole strides alone: see test_kin.py
_unet = dict(num_stages=3, base_channels=8, strides=(1, 1, 1), enc_num_convs=(2, 2, 1), dec_num_convs=(1, 2))
_unet.update(downsamples=(True, True), enc_dilations=(1, 1, 1), dec_dilations=(1, 1), norm_eval=True)
_unet["upsample_cfg"] = dict(type="mmseg.InterpConv")
_csp = dict(deepen_factor=0.34, widen_factor=0.125, norm_eval=True)
_anchors = dict(anchor_generator=ANCHORS)
_tower = dict(**_dense, stacked_convs=2)
_sides = dict(type="TBLRBBoxCoder", normalizer=4.0)
_distill = dict(type="KnowledgeDistillationKLDivLoss")
_fovea = dict(base_edge_list=(16, 32, 64, 128), scale_ranges=((8, 32),) * 4)
KIN = [
    encoder(pixels=True),
    of_convs("HRNet", backbones, 11, **_hr),
    of_convs("UNet", seg_backbones, 5, **_unet),
    of_convs("CSPNeXt", backbones, 4, **_csp),
    of_convs("CSPDarknet", backbones, 4, **_csp),
    on_pyramid("CSPNeXtPAFPN", necks, 3, 7, in_channels=[8] * 3, out_channels=8, num_csp_blocks=2, norm_cfg=_norm),
    on_pyramid("YOLOXPAFPN", necks, 3, 4, in_channels=[8] * 3, out_channels=8, num_csp_blocks=2, norm_cfg=_norm),
    on_pyramid("HRFPN", necks, 4, 3, **_neck, num_outs=5),
    on_pyramid("MultiLevelNeck", seg_necks, 4, 4, **_neck, scales=[0.5, 1, 2, 4]),
    on_pyramid("YOLOXHead", dense_heads, 3, 3, **_levels, stacked_convs=2, strides=(4, 8, 16), norm_cfg=_norm),
    on_pyramid("RetinaSepBNHead", dense_heads, 4, 3, **_tower, num_ins=4, **_anchors, norm_cfg=_norm),
    on_pyramid("FSAFHead", dense_heads, 4, 3, **_tower, **_anchors, bbox_coder=_sides),
    on_pyramid("FoveaHead", dense_heads, 4, 3, **_tower, strides=[4, 8, 16, 32], **_fovea),
    on_pyramid("CenterNetUpdateHead", dense_heads, 4, 3, **_tower, strides=[1] * 4, norm_cfg=_norm),
    *(on_pyramid(name, dense_heads, 4, 3, **_tower, **_anchors) for name in ("FreeAnchorRetinaHead", "PISARetinaHead")),
    *(on_pyramid(name, dense_heads, 4, 3, **_tower, **_anchors, norm_cfg=_norm) for name in ("LADHead", "PAAHead")),
    on_pyramid("LDHead", dense_heads, 4, 3, **_tower, **_anchors, norm_cfg=_norm, loss_ld=_distill),
    *(on_pyramid(name, decode_heads, 1, 3, **_one_map) for name in ("FCNHead", "GCHead", "NLHead", "DNLHead")),
]
ALL = [*CONVNEXTS, convnext("atto", v2=True), *SWINS, *RESNETS, *OF_CONVS, *VITS, *ENCODERS, *NECKS, *HEADS]
CHANNEL_MIXERS = [convnext("atto"), convnext("atto", v2=True), swin("micro"), swin("micro", skip_windows=True)]
BACKBONES = [*CHANNEL_MIXERS, *RESNETS, *VITS]
LIGHT = [*BACKBONES, *OF_CONVS, *ENCODERS, *NECKS, *HEADS]
FAMILIES = [convnext("atto"), swin("micro"), vit(VIT_EVERYWHERE), vit(CUMULATIVE), vit_windows(), NECKS[0], HEADS[0]]
# scorers that obey the laws, too
OF_PROJECTS = ["SurpriseScorer", "TokenImportanceScorer", "PropagationScorer", "ValueAttentionScorer"]
READING = ["AttentionScorer", "TokenImportanceScorer", "ValueAttentionScorer"]
SELECTORS = ["TopKSelector", "GumbelSelector", "ThresholdSelector"]


def ids(network: Network) -> str:
    return network.name


def with_scorers(*scorers: str) -> list[Any]:
    """Every light network with every scorer that it can have; those of projects in one of each family."""
    pairs = [(network, scorer) for network in LIGHT for scorer in scorers]
    pairs += [(network, scorer) for network in FAMILIES for scorer in OF_PROJECTS]
    return [
        pytest.param(network, scorer, id=f"{network.name}-{scorer}")
        for network, scorer in pairs
        if scorer not in READING or network.attends
    ]
