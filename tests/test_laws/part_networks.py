"""Necks, heads, encoders and backbones of convolutions beside the stock classes they must equal."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from mmdet.models import backbones, dense_heads, necks
from mmdet.models.layers import DeformableDetrTransformerEncoder, MSDeformAttnPixelDecoder
from mmdet.models.roi_heads import bbox_heads, mask_heads
from mmengine.config import ConfigDict
from mmseg.models import backbones as seg_backbones
from mmseg.models import decode_heads
from mmseg.models import necks as seg_necks
from network import Network
from torch import Tensor, nn

from mmsparse import models as ours
from mmsparse.models.encoders.deformable import DeformableEncoder


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


class Cascaded(nn.Module):
    """A head that is given a first guess of the classes, too."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.guess = nn.Conv2d(8, 3, 1)
        self.head = head

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.head(maps, self.guess(maps[0]))


class OfRegions(nn.Module):
    """A head that is given a region of each picture, of so many locations along a side."""

    def __init__(self, head: nn.Module, side: int = 14) -> None:
        super().__init__()
        self.head = head
        self.side = side

    def forward(self, maps: Sequence[Tensor]) -> Any:
        return self.head(maps[0][..., : self.side, : self.side])


class OfGrid(OfRegions):
    """A head that gives the same map twice in evaluation."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return super().forward(maps)["fused"]


def _tensors(tree: Any) -> list[Tensor]:
    return [tree] if isinstance(tree, Tensor) else [t for part in tree for t in _tensors(part)]


def on_pyramid(
    part: str,
    room: Any,
    levels: int,
    decisions: int,
    tile: int = 2,
    coarse: bool = False,
    inside: Callable[[nn.Module], nn.Module] = lambda part: part,
    **kwargs: Any,
) -> Network:
    """A stock neck or head of ``room`` beside ours; it takes so many levels and takes so many decisions."""

    def dynamic(sparsity: dict[str, Any] | None) -> nn.Module:
        return OnPyramid(inside(getattr(ours, f"Dynamic{part}")(**kwargs, sparsity=sparsity)), levels, 8)

    def stock() -> nn.Module:
        return OnPyramid(inside(getattr(room, part)(**kwargs)), levels, 8)

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


class EvaluatedNorm(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> "EvaluatedNorm":
        return super().train(False)


def norms_evaluated(model: nn.Module) -> nn.Module:
    """As with ``norm_eval=True``, for classes that do not have it."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = EvaluatedNorm
    return model


def of_convs(
    kind: str,
    room: Any,
    decisions: int,
    tile: int = 2,
    own: str | None = None,
    kin: str = "",
    inside: Callable[[nn.Module], nn.Module] = lambda part: part,
    **kwargs: Any,
) -> Network:
    """A backbone of convolutions of ``room`` beside ours; its batch norms have statistics."""
    own = f"Dynamic{own or kind}"
    ratios = [0.6, 0.5, 0.7, 0.3, 0.4, 0.6, 0.5, 0.4, 0.6, 0.7, 0.5, *[0.6] * 5][:decisions]

    def dynamic(sparsity: dict[str, Any] | None) -> nn.Module:
        return inside(getattr(ours, own)(**kwargs, sparsity=sparsity))

    def stock() -> nn.Module:
        return inside(getattr(room, kind)(**kwargs))

    some = dict(keep_ratio=ratios, tile=1, scorer=dict(type="MLPScorer", hidden=64))
    everywhere = dict(keep_ratio=ratios, tile=tile)
    return Network(own.removeprefix("Dynamic") + kin, stock, dynamic, everywhere, some)


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
OF_CONVS = [of_convs("HRNet", seg_backbones, 11, own="SegHRNet", **_hr, norm_eval=True)]
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
_two_maps = {**_decode, "in_index": [0, 1], "in_channels": [8, 8], "channels": 8}
_two_maps["dropout_ratio"] = 1e-12  # ANNHead cannot do without
_no_c1 = dict(c1_in_channels=0, c1_channels=0)
_squares = dict(type="AnchorGenerator", ratios=[1.0], scales=[4], strides=ANCHORS["strides"])
_guided = dict(approx_anchor_generator={**ANCHORS, "scales_per_octave": 3}, square_anchor_generator=_squares)
_resnet = dict(depth=18, base_channels=8, norm_eval=True)
_context = dict(context_channels=(16, 32, 64), spatial_channels=(8, 8, 8, 16), out_channels=8)
_dilated = dict(**_resnet, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
_light = dict(layer_channels=(16, 64), light_branch_middle_channels=4, psp_out_channels=8, out_channels=(8,) * 3)
_short = dict(type="mmseg.STDCNet", stdc_type="STDCNet1", in_channels=3, channels=(8, 8, 16, 16, 32))
_short.update(bottleneck_type="cat", num_convs=4, norm_cfg=_norm, act_cfg=dict(type="ReLU"))
_fused = dict(last_in_channels=(32, 16), out_channels=8, ffm_cfg=dict(in_channels=24, out_channels=8, scale_factor=2))
_two_sided = dict(detail_channels=(8,) * 3, semantic_channels=(8,) * 4, semantic_expansion_ratio=1, bga_channels=8)
_masks = dict(**_dense, stacked_convs=2, strides=[4, 8, 16, 32], num_grids=[4, 4, 2, 2], norm_cfg=_norm)
_masks["scale_ranges"] = ((1, 32), (16, 64), (32, 128), (64, 256))
_region = dict(inside=OfRegions, in_channels=8, conv_out_channels=8, num_convs=2)
_box = dict(inside=partial(OfRegions, side=7), in_channels=8, conv_out_channels=8, fc_out_channels=8, num_classes=3)
_grid = dict(in_channels=8, num_convs=3, point_feat_channels=4, deconv_kernel_size=4, norm_cfg=_norm)
KIN = [
    of_convs("ResNet", backbones, 4, own="ConvResNet", **_resnet),
    of_convs("ResNet", backbones, 4, own="ConvResNet", kin="-standardized", **_resnet, conv_cfg=dict(type="ConvWS")),
    of_convs("ResNetV1c", seg_backbones, 4, own="ConvResNetV1c", **_dilated),
    of_convs("Res2Net", backbones, 4, depth=50, base_channels=8, base_width=8, norm_eval=True),
    of_convs(
        "BiSeNetV1",
        seg_backbones,
        8,
        inside=norms_evaluated,
        backbone_cfg=dict(type="mmseg.ResNet", **_resnet),
        **_context,
    ),
    of_convs("BiSeNetV2", seg_backbones, 15, inside=norms_evaluated, **_two_sided),
    of_convs(
        "ICNet",
        seg_backbones,
        7,
        inside=norms_evaluated,
        backbone_cfg=dict(type="mmseg.ResNetV1c", **_dilated),
        **_light,
    ),
    of_convs("STDCContextPathNet", seg_backbones, 10, inside=norms_evaluated, backbone_cfg=_short, **_fused),
    on_pyramid("TOODHead", dense_heads, 4, 3, **_tower, **_anchors, norm_cfg=_norm),
    *(
        on_pyramid(name, dense_heads, 4, 3, **_masks)
        for name in ("SOLOHead", "DecoupledSOLOHead", "DecoupledSOLOLightHead")
    ),
    on_pyramid("RTMDetInsSepBNHead", dense_heads, 3, 4, **_rtmdet, norm_cfg=_norm),
    *(on_pyramid(name, mask_heads, 1, 1, **_region) for name in ("HTCMaskHead", "SCNetMaskHead")),
    on_pyramid("GridHead", mask_heads, 1, 1, inside=OfGrid, **_grid),
    on_pyramid("ConvFCBBoxHead", bbox_heads, 1, 1, **_box, num_shared_convs=2, num_shared_fcs=1),
    on_pyramid("Shared4Conv1FCBBoxHead", bbox_heads, 1, 1, **_box),
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
    on_pyramid("ANNHead", decode_heads, 2, 1, **_two_maps, project_channels=4, key_pool_scales=(1, 2)),
    on_pyramid("APCHead", decode_heads, 1, 1, **_one_map, pool_scales=(1, 2), fusion=True),
    on_pyramid("CCHead", decode_heads, 1, 3, **_one_map),
    on_pyramid("DAHead", decode_heads, 1, 4, **_one_map, pam_channels=4),
    on_pyramid("DMHead", decode_heads, 1, 1, **_one_map, filter_sizes=(1, 3), fusion=True),
    on_pyramid("DepthwiseSeparableASPPHead", decode_heads, 1, 1, **_one_map, dilations=(1, 2), **_no_c1),
    on_pyramid("EMAHead", decode_heads, 1, 3, **_one_map, ema_channels=8, num_bases=4, num_stages=2, momentum=0.0),
    on_pyramid("EncHead", decode_heads, 2, 1, **_two_maps, num_codes=4, use_se_loss=False),
    on_pyramid("ISAHead", decode_heads, 1, 1, **_one_map, isa_channels=4, down_factor=(2, 2)),
    on_pyramid("OCRHead", decode_heads, 1, 1, inside=Cascaded, **_one_map, ocr_channels=4),
    on_pyramid("PSPHead", decode_heads, 1, 1, **_one_map, pool_scales=(1, 2)),
    *(on_pyramid(name, dense_heads, 4, 3, **_tower, **_guided) for name in ("GARetinaHead", "SABLRetinaHead")),
    on_pyramid("GARPNHead", dense_heads, 4, 3, in_channels=8, feat_channels=8, **_guided),
    on_pyramid("RepPointsHead", dense_heads, 4, 3, **_tower, point_feat_channels=8, point_strides=[4, 8, 16, 32]),
    on_pyramid("VFNetHead", dense_heads, 4, 3, **_tower, strides=[4, 8, 16, 32], norm_cfg=_norm),
    on_pyramid("YOLACTHead", dense_heads, 4, 3, **_levels, num_head_convs=2, num_protos=4, **_anchors),
    on_pyramid("FCNMaskHead", mask_heads, 1, 1, inside=OfRegions, in_channels=8, conv_out_channels=8, num_convs=2),
    of_convs("RegNet", backbones, 3, arch=dict(w0=8, wa=16.0, wm=2.0, group_w=8, depth=8, bot_mul=1.0)),
    of_convs("ResNetV1c", seg_backbones, 4, depth=18, base_channels=8, norm_eval=True),
]
