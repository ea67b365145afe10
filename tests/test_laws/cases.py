"""Random small networks for the differential laws: each stock class beside ours, a budget, and a padded batch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import plain
import torch
from hypothesis import strategies as st
from mmdet.models import dense_heads, necks
from mmdet.models.backbones import ResNet, ResNetV1d, ResNeXt
from mmdet.models.backbones import SwinTransformer as DetSwin
from mmpretrain.models import BEiTViT, ConvNeXt, VisionTransformer, ViTEVA02, ViTSAM
from mmseg.models import decode_heads
from mmseg.models.backbones import SwinTransformer as SegSwin
from network import enliven
from part_networks import OnPyramid
from plain_networks import _flat_positions
from torch import Tensor, nn

from mmsparse import models as ours

# the attention of the block to come
READING = ["KeyNormScorer", "AttentionScorer", "TokenImportanceScorer", "ValueAttentionScorer"]
LEARNED = ["LocalGlobalScorer", "MLPScorer", "PropagationScorer"]
OTHERS = ["FeatureNormScorer", "RandomScorer", "SurpriseScorer", "LinearScorer"]
SIDES = st.integers(32, 72)  # of pictures: a backbone's stride and more
SMALL = st.integers(3, 8) | st.integers(5, 72)  # for a neck or head, whose coarse levels may be one location
RATIOS = st.sampled_from([0.02, 0.3, 0.5, 0.7, 0.98, 1.0]) | st.floats(0.05, 0.95).map(lambda ratio: round(ratio, 2))
STOCK = dict(ConvNeXt=ConvNeXt, DetSwin=DetSwin, SegSwin=SegSwin, VisionTransformer=VisionTransformer, ViTSAM=ViTSAM)
STOCK |= dict(ResNet=ResNet, ResNetV1d=ResNetV1d, ResNeXt=ResNeXt, BEiTViT=BEiTViT, ViTEVA02=ViTEVA02, SAM=ViTSAM)
DYNAMIC = dict(ConvNeXt="ConvNeXt", DetSwin="Swin", SegSwin="Swin", VisionTransformer="ViT", ViTSAM="ViT")
DYNAMIC |= {name: name for name in ("ResNet", "ResNetV1d", "ResNeXt", "ViTEVA02")}
DYNAMIC |= dict(BEiTViT="BEiT", SAM="ViTSAM")


@dataclass(frozen=True)
class Case:
    """Everything that a run depends on; its repr is what a failing case prints."""

    family: str
    part: str  # name of the stock class
    kwargs: dict[str, Any]  # of both classes
    own: dict[str, Any]  # of the stock class alone
    new: dict[str, Any]  # of the dynamic class alone
    sparsity: dict[str, Any]
    sizes: tuple[tuple[int, int], ...]  # of the real pictures
    padded: tuple[int, int]
    progress: float
    seed: int

    def stock(self) -> nn.Module:
        if self.family in ("neck", "head"):
            room = next(room for room in (necks, dense_heads, decode_heads) if hasattr(room, self.part))
            return OnPyramid(getattr(room, self.part)(**self.kwargs), *self.own.values())
        model = STOCK[self.part](**self.kwargs, **self.own)
        if self.part == "ViTSAM":
            model._register_state_dict_hook(_flat_positions)
        return model

    def dynamic(self) -> nn.Module:
        if self.family in ("neck", "head"):
            part = getattr(ours, f"Dynamic{self.part}")(**self.kwargs, sparsity=self.sparsity)
            return OnPyramid(part, *self.own.values())
        return getattr(ours, f"Dynamic{DYNAMIC[self.part]}")(**self.kwargs, **self.new, sparsity=self.sparsity)

    def pair(self) -> tuple[nn.Module, nn.Module]:
        """Both in double precision, with the same lively weights."""
        torch.manual_seed(self.seed)
        stock, dynamic = self.stock(), self.dynamic()
        enliven(stock)
        enliven(dynamic)
        result = dynamic.load_state_dict(stock.state_dict(), strict=False)
        assert not result.unexpected_keys
        assert all("router." in key for key in result.missing_keys)
        stock.train()  # in which some set their norms aside
        return stock.double(), dynamic.double()

    @property
    def reference(self) -> Callable[[nn.Module, nn.Module, plain.Masks], None]:
        return getattr(plain, self.family if self.family not in ("neck", "head") else "pyramid")

    def pictures(self) -> Tensor:
        """(B, 3, H, W); padding holds anything."""
        scales = torch.tensor([0.3, 1.0, 3.0])[: len(self.sizes)]
        return torch.randn(len(self.sizes), 3, *self.padded, dtype=torch.float64) * scales.view(-1, 1, 1, 1)


@st.composite
def routing(draw: Any, scorers: list[str]) -> dict[str, Any]:
    """What routers of all parts take."""
    name = draw(st.sampled_from(scorers))
    scorer: dict[str, Any] = dict(type=name)
    if name in LEARNED and draw(st.booleans()):
        scorer["hidden"] = draw(st.sampled_from([4, 8, 12]))
    if name == "AttentionScorer":
        scorer["kind"] = draw(st.sampled_from(["class", "column"]))
    selector = draw(st.sampled_from(["TopKSelector", "GumbelSelector", "ThresholdSelector"]))
    ways = [None, "gate", "gain", "stake"] if selector == "TopKSelector" else [None, "gate"]
    return dict(
        scorer=scorer,
        selector=dict(type=selector),
        detach=draw(st.booleans()),
        learn=draw(st.sampled_from(ways)),
        explore=draw(st.sampled_from([1.0, 0.25])),
    )


@st.composite
def backbone_routing(draw: Any, depths: list[int], attends: bool, first: int = 0) -> dict[str, Any]:
    sparsity = draw(routing([*LEARNED, *OTHERS, *(READING if attends else [])]))
    blocks = [(stage, block) for stage, depth in enumerate(depths) for block in range(first, depth)]
    places = sorted(draw(st.sets(st.sampled_from(blocks), min_size=1, max_size=4)))
    sparsity.update(places=places, keep_ratio=draw(st.lists(RATIOS, min_size=len(places), max_size=len(places))))
    sparsity["fast_path"] = dict(type=draw(st.sampled_from(["LinearFastPath", "IdentityFastPath"])))
    sparsity["share_scorer"] = sparsity["scorer"]["type"] in LEARNED and draw(st.booleans())
    return sparsity


@st.composite
def batches(draw: Any, sides: Any) -> tuple[tuple[int, int], tuple[tuple[int, int], ...]]:
    """The size of a batch, and those of its pictures."""
    padded = draw(sides), draw(sides)
    whole = draw(st.booleans())
    side = [st.just(length) if whole else st.integers(3, length) for length in padded]
    return padded, tuple(draw(st.lists(st.tuples(*side), min_size=1, max_size=3)))


def case(draw: Any, family: str, part: str, kwargs: Any, sparsity: Any, own: Any = None, new: Any = None) -> Case:
    padded, sizes = draw(batches(SMALL if family in ("neck", "head") else SIDES))
    progress = draw(st.sampled_from([1.0, 0.5, 0.0]))
    seed = draw(st.integers(0, 2**16))
    return Case(family, part, kwargs, own or {}, new or {}, sparsity, sizes, padded, progress, seed)


@st.composite
def convnexts(draw: Any) -> Case:
    depths = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    second = draw(st.booleans())
    kwargs = dict(
        arch=dict(depths=depths, channels=[8, 12, 16, 20][: len(depths)]),
        out_indices=list(range(len(depths))),
        use_grn=second,
        layer_scale_init_value=draw(st.sampled_from([0.0, 1.0])),
        linear_pw_conv=draw(st.booleans()),
        gap_before_final_norm=draw(st.booleans()),
        stem_patch_size=draw(st.sampled_from([2, 4])),
    )
    return case(draw, "convnext", "ConvNeXt", kwargs, draw(backbone_routing(depths, attends=False)))


@st.composite
def swins(draw: Any) -> Case:
    depths = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    kwargs = dict(
        embed_dims=8,
        depths=depths,
        num_heads=[1, 2, 4, 8][: len(depths)],
        strides=(4, 2, 2, 2)[: len(depths)],
        out_indices=tuple(range(len(depths))),
        window_size=draw(st.integers(2, 7)),
        qkv_bias=draw(st.booleans()),
        drop_path_rate=0.0,
    )
    sparsity = draw(backbone_routing(depths, attends=True))
    sparsity["skip_windows"] = draw(st.booleans())
    return case(draw, "swin", draw(st.sampled_from(["DetSwin", "SegSwin"])), kwargs, sparsity)


@st.composite
def resnets(draw: Any) -> Case:
    part = draw(st.sampled_from(["ResNet", "ResNetV1d", "ResNeXt"]))
    stages, dilated = draw(st.integers(2, 4)), draw(st.booleans())
    kwargs: dict[str, Any] = dict(
        depth=draw(st.sampled_from([50] if part == "ResNeXt" else [18, 34, 50])),
        base_channels=4,
        num_stages=stages,
        out_indices=tuple(range(stages)),
        strides=(1, 2, 1, 1)[:stages] if dilated else (1, 2, 2, 2)[:stages],
        dilations=(1, 1, 2, 4)[:stages] if dilated else (1,) * stages,
        style=draw(st.sampled_from(["pytorch", "caffe"])),
    )
    if part == "ResNeXt":
        kwargs.update(groups=2, base_width=4)
    depths = [2] * stages if kwargs["depth"] == 18 else [3, 4, 6, 3][:stages]
    sparsity = draw(backbone_routing(depths, attends=False, first=1))
    sparsity["tile"] = draw(st.integers(1, 5))
    return case(draw, "resnet", part, kwargs, sparsity)


@st.composite
def vits(draw: Any) -> Case:
    depth, windows = draw(st.integers(1, 4)), draw(st.booleans())
    sparsity = draw(backbone_routing([depth], attends=True))
    if draw(st.booleans()):
        sparsity.update(cumulative=True, keep_ratio=sorted(sparsity["keep_ratio"], reverse=True))
        if not windows and draw(st.booleans()):
            sparsity["keys"] = "entering"
    if windows or "keys" in sparsity:
        sparsity["explore"] = 1.0
    size = dict(embed_dims=12, num_layers=depth, num_heads=3, feedforward_channels=20)
    kwargs = dict(img_size=48, patch_size=draw(st.sampled_from([8, 11])), out_indices=list(range(depth)))
    if not windows:
        extra = draw(st.booleans())
        kwargs.update(arch=size, out_type="featmap", with_cls_token=extra)
        kwargs["layer_scale_init_value"] = draw(st.sampled_from([0.0, 0.5]))
        kwargs["qkv_bias"] = draw(st.booleans())
        return case(draw, "vit", "VisionTransformer", kwargs, sparsity)
    kwargs["window_size"] = draw(st.integers(1, 5))
    everywhere = sorted(draw(st.sets(st.integers(0, depth - 1))))
    own = dict(arch=dict(**size, global_attn_indexes=everywhere), out_channels=0, use_rel_pos=False)
    new = dict(arch=size, global_attn_indexes=everywhere, out_type="featmap", with_cls_token=False, final_norm=False)
    return case(draw, "vit", "ViTSAM", kwargs, sparsity, own, new)


@st.composite
def placed_vits(draw: Any) -> Case:
    """Plain transformers whose attention knows places: relative ones, decomposed ones in windows or not, angles."""
    depth, part = draw(st.integers(1, 4)), draw(st.sampled_from(["BEiTViT", "SAM", "ViTEVA02"]))
    sparsity = draw(backbone_routing([depth], attends=True))
    if draw(st.booleans()):
        sparsity.update(cumulative=True, keep_ratio=sorted(sparsity["keep_ratio"], reverse=True))
        if part != "SAM" and draw(st.booleans()):
            sparsity["keys"] = "entering"
    if part == "SAM" or "keys" in sparsity:
        sparsity["explore"] = 1.0
    arch = dict(embed_dims=12, num_layers=depth, num_heads=3, feedforward_channels=20)
    kwargs = dict(arch=arch, patch_size=draw(st.sampled_from([8, 11])), out_indices=list(range(depth)))
    if part == "SAM":
        kwargs["arch"]["global_attn_indexes"] = sorted(draw(st.sets(st.integers(0, depth - 1))))
        kwargs.update(img_size=48, window_size=draw(st.integers(1, 5)), out_channels=draw(st.sampled_from([0, 4])))
        kwargs["qkv_bias"] = draw(st.booleans())
        return case(draw, "vit", part, kwargs, sparsity)
    kwargs["out_type"] = "featmap"
    if part == "ViTEVA02":
        kwargs["arch"]["num_heads"] = 1  # angles are of fours of channels
        kwargs.update(img_size=48, sub_ln=draw(st.booleans()), with_cls_token=draw(st.booleans()))
        return case(draw, "vit", part, kwargs, sparsity)
    shared, own = draw(st.sampled_from([(True, False), (False, True), (False, False)]))
    kwargs.update(use_shared_rel_pos_bias=shared, use_rel_pos_bias=own, bias=draw(st.sampled_from(["qv_bias", True])))
    kwargs.update(use_abs_pos_emb=draw(st.booleans()), layer_scale_init_value=draw(st.sampled_from([0.0, 0.5])))
    found = case(draw, "vit", part, kwargs, sparsity)
    return replace(found, kwargs=dict(kwargs, img_size=found.padded))  # the only one that the stock class takes


@st.composite
def conv_routing(draw: Any, decisions: Callable[[int], int]) -> dict[str, Any]:
    sparsity = draw(routing([*LEARNED, *OTHERS]))
    levels = draw(st.integers(1, 4))
    count = decisions(levels)
    sparsity.update(levels=levels, tile=draw(st.integers(1, 5)))
    sparsity["keep_ratio"] = draw(RATIOS | st.lists(RATIOS, min_size=count, max_size=count))
    return sparsity


def _norm(draw: Any) -> dict[str, Any] | None:
    return draw(st.sampled_from([None, dict(type="GN", num_groups=2)]))


@st.composite
def neck_cases(draw: Any) -> Case:
    levels, kind = draw(st.integers(2, 4)), draw(st.sampled_from(["FPN", "PAFPN", "ChannelMapper"]))
    kwargs = dict(in_channels=[8] * levels, out_channels=12, norm_cfg=_norm(draw))
    if kind == "ChannelMapper":
        kwargs.update(kernel_size=draw(st.sampled_from([3, 5])), num_outs=levels + draw(st.integers(0, 1)))
    else:
        kwargs.update(num_outs=levels + draw(st.integers(0, 1)))
        kwargs.update(add_extra_convs=draw(st.sampled_from([False, "on_input", "on_output"])))
    sparsity = draw(conv_routing(partial(_of_pafpn if kind == "PAFPN" else min, levels)))
    return case(draw, "neck", kind, kwargs, sparsity, own=dict(levels=levels, channels=8))


@st.composite
def head_cases(draw: Any) -> Case:
    levels = draw(st.integers(2, 4))
    kind = draw(st.sampled_from(["RPNHead", "RetinaHead", "FCOSHead", "ATSSHead", "GFLHead", "UPerHead", "FPNHead"]))
    strides = [4 * 2**i for i in range(levels)]
    anchors = dict(type="AnchorGenerator", octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=strides)
    if kind in ("UPerHead", "FPNHead"):
        kwargs = dict(
            in_index=list(range(levels)), dropout_ratio=0.0, num_classes=3, in_channels=[8] * levels, channels=8
        )
        kwargs["norm_cfg"] = _norm(draw)
        kwargs |= dict(pool_scales=(1, 2)) if kind == "UPerHead" else dict(feature_strides=strides)
        count = partial(_of_uper_head if kind == "UPerHead" else _of_fpn_head, levels)
    else:
        kwargs = dict(in_channels=8, feat_channels=8)
        kwargs |= dict(strides=strides) if kind == "FCOSHead" else dict(anchor_generator=anchors)
        if kind == "RPNHead":
            kwargs["num_convs"] = draw(st.integers(1, 2))
        else:
            kwargs.update(num_classes=3, stacked_convs=draw(st.integers(1, 2)), norm_cfg=_norm(draw))
        count = partial(min, levels)
    return case(draw, "head", kind, kwargs, draw(conv_routing(count)), own=dict(levels=levels, channels=8))


def _of_pafpn(levels: int, routed: int) -> int:
    return min(routed, levels) + min(routed - 1, levels - 1)


def _of_uper_head(levels: int, routed: int) -> int:
    return min(routed, levels - 1) + 1


def _of_fpn_head(levels: int, routed: int) -> int:
    """Level i has i convolutions (the finest one), on maps from its own size to half of the finest."""
    return sum(level < routed for i in range(levels) for level in (range(i, 0, -1) if i else [0]))


FAMILIES = dict(convnext=convnexts(), swin=swins(), resnet=resnets(), vit=vits(), placed_vit=placed_vits())
FAMILIES |= dict(neck=neck_cases(), head=head_cases())
