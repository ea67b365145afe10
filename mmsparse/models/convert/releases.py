"""The layouts of the original releases, of timm and of mmseg."""

import math

import torch
from torch import Tensor

from .layouts import Change, Layout, State, rules

# timm's nano and smaller have 1x1 convolutions where all others are linear: the channels of their first stage.
OF_CONVOLUTIONS = (40, 48, 64, 80)
REGISTERS = "register_tokens"
NUM_HEADS = "num_heads is no weight: it is that of a known size, and else there are 64 channels a head"


def _unfold_order(weight: Tensor) -> Tensor:
    """The last dimension holds four neighbours x channels, columns first; nn.Unfold: channels x four, rows first."""
    split = weight.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
    return split.transpose(-1, -2).flatten(-2)


def _neighbour_order(weight: Tensor, ours: State) -> Tensor:
    """The inverse."""
    return weight.unflatten(-1, (-1, 4)).transpose(-1, -2)[..., [0, 2, 1, 3], :].flatten(-2)


def _linear(weight: Tensor, *_: State) -> Tensor:
    return weight.flatten(1)


def _as_in_timm(weight: Tensor, ours: State) -> Tensor:
    convolution = len(ours["downsample_layers.0.0.weight"]) in OF_CONVOLUTIONS
    return _linear(weight)[..., None, None] if convolution else _linear(weight)


def _same(value: Tensor) -> Tensor:
    return value


def _class_in_timm(token: Tensor, ours: State) -> Tensor:
    """With registers timm has no position of the class token, but adds it to the token itself."""
    return token + ours["pos_embed"][:, :1] if REGISTERS in ours else token


def _places_in_timm(places: Tensor, ours: State) -> Tensor:
    return places[:, 1:] if REGISTERS in ours else places


def with_place_of_class(state: State) -> State:
    """The other way round: of weights with registers as timm has them, under our names."""
    places = state.get("pos_embed")
    if REGISTERS not in state or places is None or math.isqrt(places.shape[1]) ** 2 != places.shape[1]:
        return state
    return {**state, "pos_embed": torch.cat([torch.zeros_like(places[:, :1]), places], dim=1)}


MERGED = Change(_unfold_order, _neighbour_order)
FLAT = Change(Tensor.flatten, lambda value, ours: value.view(1, 1, 1, -1))
LINEAR = Change(_linear, _linear)
TIMM_LINEAR = Change(_linear, _as_in_timm)

CONVNEXT = rules(
    ("downsample_layers.{i}.{j}.{p}", "downsample_layers.{i}.{j}.{p}"),
    ("stages.{i}.{j}.dwconv.{p}", "stages.{i}.{j}.depthwise_conv.{p}"),
    ("stages.{i}.{j}.norm.{p}", "stages.{i}.{j}.norm.{p}"),
    ("stages.{i}.{j}.pwconv1.weight", "stages.{i}.{j}.pointwise_conv1.weight", LINEAR),
    ("stages.{i}.{j}.pwconv1.bias", "stages.{i}.{j}.pointwise_conv1.bias"),
    ("stages.{i}.{j}.pwconv2.weight", "stages.{i}.{j}.pointwise_conv2.weight", LINEAR),
    ("stages.{i}.{j}.pwconv2.bias", "stages.{i}.{j}.pointwise_conv2.bias"),
    ("stages.{i}.{j}.gamma", "stages.{i}.{j}.gamma"),
    ("stages.{i}.{j}.grn.{p}", "stages.{i}.{j}.grn.{p}", FLAT),
    ("norm{i}.{p}", "norm{i}.{p}"),
    ("norm.{p}", "norm3.{p}"),
    ("head.{p}", "head.fc.{p}"),
)
CONVNEXT_TIMM = rules(
    ("stem.{j}.{p}", "downsample_layers.0.{j}.{p}"),
    ("stages.{i}.downsample.{j}.{p}", "downsample_layers.{i}.{j}.{p}"),
    ("stages.{i}.blocks.{j}.conv_dw.{p}", "stages.{i}.{j}.depthwise_conv.{p}"),
    ("stages.{i}.blocks.{j}.norm.{p}", "stages.{i}.{j}.norm.{p}"),
    ("stages.{i}.blocks.{j}.mlp.fc1.weight", "stages.{i}.{j}.pointwise_conv1.weight", TIMM_LINEAR),
    ("stages.{i}.blocks.{j}.mlp.fc1.bias", "stages.{i}.{j}.pointwise_conv1.bias"),
    ("stages.{i}.blocks.{j}.mlp.fc2.weight", "stages.{i}.{j}.pointwise_conv2.weight", TIMM_LINEAR),
    ("stages.{i}.blocks.{j}.mlp.fc2.bias", "stages.{i}.{j}.pointwise_conv2.bias"),
    ("stages.{i}.blocks.{j}.gamma", "stages.{i}.{j}.gamma"),
    ("stages.{i}.blocks.{j}.mlp.grn.weight", "stages.{i}.{j}.grn.gamma"),
    ("stages.{i}.blocks.{j}.mlp.grn.bias", "stages.{i}.{j}.grn.beta"),
    ("head.norm.{p}", "norm3.{p}"),
    ("head.fc.{p}", "head.fc.{p}"),
)
SWIN_BODY = rules(
    ("patch_embed.proj.{p}", "patch_embed.projection.{p}"),
    ("patch_embed.norm.{p}", "patch_embed.norm.{p}"),
    ("layers.{i}.blocks.{j}.norm1.{p}", "stages.{i}.blocks.{j}.norm1.{p}"),
    ("layers.{i}.blocks.{j}.attn.{n}", "stages.{i}.blocks.{j}.attn.w_msa.{n}"),
    ("layers.{i}.blocks.{j}.norm2.{p}", "stages.{i}.blocks.{j}.norm2.{p}"),
    ("layers.{i}.blocks.{j}.mlp.fc1.{p}", "stages.{i}.blocks.{j}.ffn.layers.0.0.{p}"),
    ("layers.{i}.blocks.{j}.mlp.fc2.{p}", "stages.{i}.blocks.{j}.ffn.layers.1.{p}"),
    ("norm.{p}", "norm3.{p}"),
)
SWIN = rules(
    *SWIN_BODY,
    ("absolute_pos_embed", "absolute_pos_embed"),
    ("layers.{i}.downsample.{n}", "stages.{i}.downsample.{n}", MERGED),
    ("norm{i}.{p}", "norm{i}.{p}"),
    ("head.{p}", "head.fc.{p}"),
)
# Since 0.9 timm merges patches before a stage; the original release and ours do it behind the one before.
SWIN_TIMM = rules(
    *SWIN_BODY,
    ("layers.{i+1}.downsample.{n}", "stages.{i}.downsample.{n}", MERGED),
    ("head.fc.{p}", "head.fc.{p}"),
)
VIT = rules(
    ("cls_token", "cls_token", Change(_same, _class_in_timm)),
    ("pos_embed", "pos_embed", Change(_same, _places_in_timm)),
    ("reg_token", REGISTERS),
    ("register_tokens", REGISTERS),
    ("patch_embed.proj.{p}", "patch_embed.projection.{p}"),
    ("blocks.{i}.norm1.{p}", "layers.{i}.ln1.{p}"),
    ("blocks.{i}.attn.qkv.{p}", "layers.{i}.attn.qkv.{p}"),
    ("blocks.{i}.attn.proj.{p}", "layers.{i}.attn.proj.{p}"),
    ("blocks.{i}.ls1.gamma", "layers.{i}.attn.gamma1.weight"),
    ("blocks.{i}.gamma_1", "layers.{i}.attn.gamma1.weight"),
    ("blocks.{i}.norm2.{p}", "layers.{i}.ln2.{p}"),
    ("blocks.{i}.mlp.fc1.{p}", "layers.{i}.ffn.layers.0.0.{p}"),
    ("blocks.{i}.mlp.fc2.{p}", "layers.{i}.ffn.layers.1.{p}"),
    ("blocks.{i}.ls2.gamma", "layers.{i}.ffn.gamma2.weight"),
    ("blocks.{i}.gamma_2", "layers.{i}.ffn.gamma2.weight"),
    ("norm.{p}", "ln1.{p}"),
    ("head.{p}", "head.layers.head.{p}"),
)
VIT_MMSEG = rules(
    ("layers.{i}.attn.attn.in_proj_{p}", "layers.{i}.attn.qkv.{p}"),
    ("layers.{i}.attn.attn.out_proj.{p}", "layers.{i}.attn.proj.{p}"),
    ("{n}", "{n}"),
)

CONVNEXT_MARKERS = r"stages\.\d+\.\d+\.dwconv\.", r"stages\.\d+\.blocks\.\d+\.conv_dw\."
SWIN_MARKER = r"layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table"
VIT_MARKERS = r"blocks\.\d+\.attn\.qkv\.", r"layers\.\d+\.attn\.attn\.in_proj_weight"
ORIGINAL_SWIN = Layout("original Swin", "swin", SWIN_MARKER, SWIN)
LAYOUTS = (
    Layout("original ConvNeXt", "convnext", CONVNEXT_MARKERS[0], CONVNEXT),
    Layout("timm ConvNeXt", "convnext", CONVNEXT_MARKERS[1], CONVNEXT_TIMM, release="timm"),
    Layout("timm Swin", "swin", SWIN_MARKER, SWIN_TIMM, release="timm"),
    ORIGINAL_SWIN,
    Layout(
        "original DeiT or DINOv2, or timm ViT",
        "vit",
        VIT_MARKERS[0],
        VIT,
        release="timm",
        unused="mask_token",
        notes=(NUM_HEADS,),
    ),
    Layout("mmseg ViT", "vit", VIT_MARKERS[1], VIT_MMSEG, notes=(NUM_HEADS,)),
)
