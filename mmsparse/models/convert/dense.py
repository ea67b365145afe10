"""Dense weights of the original and the timm releases of ConvNeXt, Swin and DeiT -> the OpenMMLab layout."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmsparse.models.backbones.swin_weights import from_original_swin

from .architectures import BACKBONES

State = dict[str, Tensor]
Rules = Sequence[tuple[str, str]]

CONVNEXT: Rules = (
    (r"^head\.", "head.fc."),
    (r"^norm\.", "norm3."),
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"\.pwconv", ".pointwise_conv"),
)
CONVNEXT_TIMM: Rules = (
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
    (r"^stages\.(\d+)\.blocks\.", r"stages.\1."),
    (r"\.conv_dw\.", ".depthwise_conv."),
    (r"\.mlp\.fc", ".pointwise_conv"),
    (r"\.mlp\.grn\.weight$", ".grn.gamma"),
    (r"\.mlp\.grn\.bias$", ".grn.beta"),
    (r"^head\.norm\.", "norm3."),
)
SWIN_HEAD: Rules = ((r"^head\.(?!fc\.)", "head.fc."), (r"^norm\.", "norm3."))
VIT: Rules = (
    (r"^head\.", "head.layers.head."),
    (r"^norm\.", "ln1."),
    (r"^blocks\.", "layers."),
    (r"\.norm(\d)\.", r".ln\1."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"\.(gamma_1|ls1\.gamma)$", ".attn.gamma1.weight"),
    (r"\.(gamma_2|ls2\.gamma)$", ".ffn.gamma2.weight"),
    (r"^patch_embed\.proj\.", "patch_embed.projection."),
    (r"^reg_token$", "register_tokens"),
)
VIT_MMSEG: Rules = ((r"\.attn\.attn\.in_proj_", ".attn.qkv."), (r"\.attn\.attn\.out_proj\.", ".attn.proj."))

# what only the files of one layout have: (pattern, family, name, rules)
LAYOUTS: Sequence[tuple[str, str, str, Rules]] = (
    (r"stages\.\d+\.\d+\.dwconv\.", "convnext", "original ConvNeXt", CONVNEXT),
    (r"stages\.\d+\.blocks\.\d+\.conv_dw\.", "convnext", "timm ConvNeXt", CONVNEXT_TIMM),
    (r"layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table", "swin", "original or timm Swin", SWIN_HEAD),
    (r"blocks\.\d+\.attn\.qkv\.", "vit", "original DeiT or timm ViT", VIT),
    (r"layers\.\d+\.attn\.attn\.in_proj_weight", "vit", "mmseg ViT", VIT_MMSEG),
)
CONVERTED = r"router\.|.*\.depthwise_conv\.|.*\.attn\.w_msa\.|layers\.\d+\.ffn\.layers\."
COMPUTED = ("relative_position_index", "attn_mask")  # buffers that follow from the sizes


@dataclass(frozen=True)
class Converted:
    """Weights under the names of a whole OpenMMLab model, and the backbone that they are for.

    Attributes:
        layout: What the file was.
        family: convnext, swin or vit.
        weights: ``backbone.*``, ``head.*`` and what else the file's own model has.
        backbone: Config of the backbone.
        notes: What a user must know besides.
    """

    layout: str
    family: str
    weights: State
    backbone: dict[str, Any]
    notes: tuple[str, ...] = field(default=())


def convert_dense(state: State) -> Converted:
    """The weights of a dense release; a ValueError if the layout is not known."""
    if any("score_predictor." in key for key in state):
        raise ValueError(
            "these are weights of a dynamic network (they hold score_predictor), not of a dense one; "
            "use `mmsparse convert-dynamicvit`"
        )
    others = {}
    if any(key.startswith("backbone.") for key in state):
        others = {key: value for key, value in state.items() if not key.startswith("backbone.")}
        state = {key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")}
    family, name, rules = _layout(state)
    if "dist_token" in state:
        raise ValueError(
            "this is a distilled DeiT (it holds dist_token), which the plain VisionTransformer cannot hold; "
            "use the release without distillation"
        )
    state = {key: value for key, value in state.items() if not key.endswith(COMPUTED)}
    if family == "swin":
        heads = {key: value for key, value in state.items() if key.startswith("head.")}
        state = {**from_original_swin(_merging_behind(state)), **heads}
    state = {_renamed(key, rules): value for key, value in state.items()}
    if family == "convnext":
        state = {key: _convnext_shape(key, value) for key, value in state.items()}
    if "register_tokens" in state:
        state["pos_embed"] = _with_place_of_class(state["pos_embed"])
    weights = {key if key.startswith("head.") else f"backbone.{key}": value for key, value in state.items()}
    return Converted(name, family, {**weights, **others}, BACKBONES[family](state))


def _layout(state: State) -> tuple[str, str, Rules]:
    for pattern, family, name, rules in LAYOUTS:
        if any(re.match(pattern, key) for key in state):
            return family, name, rules
    if any(re.match(CONVERTED, key) for key in state):
        raise ValueError("these weights already have the OpenMMLab layout; load them as they are")
    known = ", ".join(name for _, _, name, _ in LAYOUTS)
    raise ValueError(f"unknown layout, with keys such as {sorted(state)[:3]}; expected one of: {known}")


def _renamed(key: str, rules: Rules) -> str:
    for pattern, new in rules:
        key = re.sub(pattern, new, key)
    return key


def _merging_behind(state: State) -> State:
    """Since 0.9 timm merges patches before a stage; the original release and ours do it behind the one before."""
    if not any(key.startswith("layers.3.downsample.") for key in state):
        return state

    def behind(key: str) -> str:
        return re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", key)

    return {behind(key): value for key, value in state.items()}


def _with_place_of_class(positions: Tensor) -> Tensor:
    """timm adds that of the class token of DINOv2 with registers to the token itself."""
    if math.isqrt(positions.shape[1]) ** 2 != positions.shape[1]:
        return positions
    return torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)


def _convnext_shape(key: str, value: Tensor) -> Tensor:
    """Pointwise layers are linear and response norms flat, whatever the release stored them as."""
    if ".pointwise_conv" in key and value.dim() == 4:
        return value.flatten(1)
    return value.flatten() if ".grn." in key else value
