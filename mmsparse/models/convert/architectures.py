"""What backbone a state dict (OpenMMLab layout, without prefix) belongs to: its config, read from names and shapes."""

import math
import re
from collections.abc import Callable
from typing import Any

from mmpretrain.models import ConvNeXt, VisionTransformer
from torch import Tensor

from .layouts import State

VITS = ("deit-tiny", "deit-small", "base", "large", "huge", "eva-giant", "dinov2-giant")


def convnext_config(state: State) -> dict[str, Any]:
    depths = _counts(state, r"stages\.(\d+)\.(\d+)\.")
    channels = [_get(state, f"stages.{i}.0.norm.weight").shape[0] for i in range(len(depths))]
    arch: str | dict[str, Any] = dict(depths=depths, channels=channels)
    arch = next((name for name, known in ConvNeXt.arch_settings.items() if known == arch), arch)
    config = dict(type="mmsparse.DynamicConvNeXt", arch=arch)
    if any(".grn." in key for key in state):
        config.update(use_grn=True)
    if not any(key.endswith(".gamma") and ".grn." not in key for key in state):
        config.update(layer_scale_init_value=0.0)
    outs = _outs(state, len(depths))
    if outs != (len(depths) - 1,):
        config.update(out_indices=outs, gap_before_final_norm=False)
    return config


def swin_config(state: State) -> dict[str, Any]:
    depths = _counts(state, r"stages\.(\d+)\.blocks\.(\d+)\.")
    tables = [
        _get(state, f"stages.{i}.blocks.0.attn.w_msa.relative_position_bias_table").shape for i in range(len(depths))
    ]
    projection = _get(state, "patch_embed.projection.weight")
    config = dict(
        type="mmsparse.DynamicSwin",
        embed_dims=projection.shape[0],
        depths=tuple(depths),
        num_heads=tuple(heads for _, heads in tables),
        window_size=(math.isqrt(tables[0][0]) + 1) // 2,
        out_indices=_outs(state, len(depths)),
    )
    if "absolute_pos_embed" in state:
        side = math.isqrt(state["absolute_pos_embed"].shape[1])
        config.update(use_abs_pos_embed=True, pretrain_img_size=side * projection.shape[-1])
    return config


def vit_config(state: State) -> dict[str, Any]:
    depth = max(int(match[1]) for key in state if (match := re.match(r"layers\.(\d+)\.", key))) + 1
    projection = _get(state, "patch_embed.projection.weight")
    dims, patch = projection.shape[0], projection.shape[-1]
    swiglu = "layers.0.ffn.w3.weight" in state
    hidden = _get(state, f"layers.0.ffn.{'w3' if swiglu else 'layers.1'}.weight").shape[1]
    if not swiglu and len(_get(state, "layers.0.ffn.layers.0.0.weight")) == 2 * hidden:
        raise ValueError("these are weights of timm's ViT with SwiGLU; take those of the Hugging Face hub")
    feedforward = hidden * 3 // 2 if swiglu else hidden  # what SwiGLUFFNFused takes two thirds of
    sizes = dict(embed_dims=dims, num_layers=depth, feedforward_channels=feedforward)
    arch: str | dict[str, Any] = dict(sizes, num_heads=dims // 64)
    arch = next((name for name in VITS if VisionTransformer.arch_zoo[name].items() >= sizes.items()), arch)
    side = math.isqrt(_get(state, "pos_embed").shape[1] - 1)  # the class token has a position, too
    config = dict(type="mmsparse.DynamicViT", arch=arch, img_size=side * patch, patch_size=patch)
    if "layers.0.attn.gamma1.weight" in state:
        config.update(layer_scale_init_value=1e-5)
    if swiglu:
        config.update(layer_cfgs=dict(ffn_type="swiglu_fused"))
    if "register_tokens" in state:
        config.update(num_registers=state["register_tokens"].shape[1])
    return config


BACKBONES: dict[str, Callable[[State], dict[str, Any]]] = {
    "convnext": convnext_config,
    "swin": swin_config,
    "vit": vit_config,
}


def _outs(state: State, stages: int) -> tuple[int, ...]:
    """The maps that have norms of their own; a classifier's weights have one for the last map, or none."""
    return tuple(i for i in range(stages) if f"norm{i}.weight" in state) or (stages - 1,)


def _counts(state: State, pattern: str) -> list[int]:
    """Number of blocks of each stage."""
    pairs = {(int(m[1]), int(m[2])) for key in state if (m := re.match(pattern, key))}
    return [1 + max(block for s, block in pairs if s == stage) for stage in sorted({stage for stage, _ in pairs})]


def _get(state: State, key: str) -> Tensor:
    if key not in state:
        raise ValueError(f"incomplete weights: nothing in the file becomes {key}")
    return state[key]
