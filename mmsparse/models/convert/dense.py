"""Dense weights of other releases -> the OpenMMLab layout."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import hugging_face, releases
from .architectures import BACKBONES
from .layouts import Layout, State, nearest, read
from .segmenters import HEADS, head_configs

LAYOUTS = (*releases.LAYOUTS, *hugging_face.LAYOUTS)
OURS = r"router\.|.*\.depthwise_conv\.|.*\.attn\.w_msa\.|layers\.\d+\.ffn\."
COMPUTED = ("relative_position_index", "attn_mask")  # buffers that follow from the sizes
REGISTERS = r".*\b(reg_token|register_tokens|storage_tokens)$"
POSITIONS = ("pos_embed", "position_embeddings")
NO_PLACE = "for which mmpretrain's VisionTransformer has no place"
# what other models have: pattern of a name, and the sentence
REFUSED = (
    (
        r".*score_predictor\.",
        "these are weights of a dynamic network (they hold score_predictor), not of a dense one; "
        "use `mmsparse convert-dynamicvit`",
    ),
    (
        r".*(dist_token|distillation_token)$",
        f"this is a distilled DeiT (it holds {{}}), {NO_PLACE}; use the release without distillation",
    ),
    (
        r".*\.(logit_scale|cpb_mlp\..*|continuous_position_bias_mlp\..*)$",
        "this is a Swin Transformer V2 (it holds {}), whose attention SwinTransformer does not compute; use a V1",
    ),
)


@dataclass(frozen=True)
class Converted:
    """Weights under the names of a whole OpenMMLab model, and the backbone that they are for.

    Attributes:
        layout: What the file was.
        family: convnext, swin or vit.
        weights: ``backbone.*``, ``head.*`` and what else the file's own model has.
        backbone: Config of the backbone.
        heads: Configs of a segmenter's heads that were converted, by their name in it.
        left_out: What of the file a dense network has no use for.
        notes: What a user must know besides.
    """

    layout: str
    family: str
    weights: State
    backbone: dict[str, Any]
    heads: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def convert_dense(state: State) -> Converted:
    """The weights of a dense release; a ValueError if the layout is not known."""
    _refuse(state)
    others = {}
    if any(key.startswith("backbone.") for key in state):
        others = {key: value for key, value in state.items() if not key.startswith("backbone.")}
        state = {key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")}
    layout = _layout(state)
    state, left_out = read({key: v for key, v in state.items() if not key.endswith(COMPUTED)}, layout)
    state = releases.with_place_of_class(state)
    backbone = {**BACKBONES[layout.family](state), **layout.config}
    name, heads, notes = layout.name, {}, layout.notes
    if HEADS.holds(others):
        others, _ = read(others, HEADS)
        name, notes = f"{name} with {HEADS.name}", HEADS.notes
        heads = head_configs(others, backbone.get("out_indices", ()))
    weights = {**prefixed(state), **others}
    return Converted(name, layout.family, weights, backbone, heads, left_out=tuple(left_out), notes=notes)


def prefixed(state: State) -> State:
    """A backbone's weights and its classifier's under the names of the whole model."""
    return {key if key.startswith("head.") else f"backbone.{key}": value for key, value in state.items()}


def _refuse(state: State) -> None:
    for pattern, sentence in REFUSED:
        if found := [key for key in state if re.match(pattern, key)]:
            raise ValueError(sentence.format(found[0]))
    found = [key for key in state if re.match(REGISTERS, key)]
    if found and not any(key.endswith(POSITIONS) for key in state):
        raise ValueError(
            f"this is a DINOv3 ViT, with rotary positions and register tokens ({found[0]}), {NO_PLACE}; "
            "of DINOv3 its ConvNeXt can be converted"
        )


def _layout(state: State) -> Layout:
    layout = nearest((layout for layout in LAYOUTS if layout.holds(state)), state, ours=False)
    if layout is None and any(re.match(OURS, key) for key in state):
        raise ValueError("these weights already have the OpenMMLab layout; load them as they are")
    if layout is None:
        known = ", ".join(layout.name for layout in LAYOUTS)
        raise ValueError(f"unknown layout, with keys such as {sorted(state)[:3]}; expected one of: {known}")
    return layout
