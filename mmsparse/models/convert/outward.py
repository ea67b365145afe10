"""Weights in the OpenMMLab layout -> those of timm or of the Hugging Face hub."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .architectures import BACKBONES
from .dense import COMPUTED, LAYOUTS, Converted, prefixed
from .fit import check_fit
from .layouts import State, nearest, write
from .segmenters import HEADS, head_configs

RELEASES = {"hf": "the Hugging Face hub", "timm": "timm"}
FAMILIES = {
    "convnext": r"stages\.\d+\.\d+\.depthwise_conv\.",
    "swin": r"stages\.\d+\.blocks\.\d+\.attn\.w_msa\.",
    "vit": r"layers\.\d+\.ffn\.",
}
CLASSIFIER, SEGMENTER = ("backbone.", "head."), ("decode_head.", "auxiliary_head.")
UPERNET = r"decode_head\.(psp_modules|lateral_convs)\."
ROUTER = r"(.*\.)?router\."
MAY_BE_LEFT = r"norm\d\.|head\."  # norms of maps, classifiers
GATES = (
    "there every location goes the slow path, as here with keep_ratio=1: what the routed network learnt to do with "
    "fewer is lost, so measure anew"
)


@dataclass(frozen=True)
class Released:
    """Weights under the names of another release.

    Attributes:
        layout: Which.
        weights: What its class loads.
        missing: What our network has besides and the file lacks: the norm before a classifier, the classifier.
        left_out: What the file holds and the release has no place for.
        notes: What a user must know besides.
    """

    layout: str
    weights: State
    missing: Sequence[str]
    left_out: Sequence[str]
    notes: Sequence[str]


def convert_outward(state: State, release: str) -> Released:
    """The dense weights of a network, of ours or a stock one; a ValueError if the release has no such network."""
    routed = [key for key in state if re.match(ROUTER, key)]
    state = {key: v for key, v in state.items() if not re.match(ROUTER, key) and not key.endswith(COMPUTED)}
    parts = CLASSIFIER if any(key.startswith("backbone.") for key in state) else ("",)
    own = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith(parts)}
    others = {key: value for key, value in state.items() if not key.startswith(parts)}
    family = next((name for name, of in FAMILIES.items() if any(re.match(of, key) for key in own)), None)
    if family is None:
        raise ValueError(
            "expected weights of a ConvNeXt, Swin or Vision Transformer in the OpenMMLab layout, but got keys such as "
            f"{sorted(state)[:3]}"
        )
    backbone, heads = BACKBONES[family](own), {}
    if release == HEADS.release and any(re.match(UPERNET, key) for key in others):
        heads = {key: value for key, value in others.items() if key.startswith(SEGMENTER)}
    configs = head_configs(heads, backbone.get("out_indices", ())) if heads else {}
    fit = check_fit(Converted("OpenMMLab", family, {**prefixed(own), **heads}, backbone, configs))
    layout = nearest((x for x in LAYOUTS if (x.release, x.family) == (release, family)), own, ours=True)
    weights, no_place = write(own, layout)
    if stray := [key for key in no_place if not re.match(MAY_BE_LEFT, key)]:
        raise ValueError(f"{RELEASES[release]} has no network that holds {stray[0]}")
    if heads:
        weights = prefixed(weights) | write(heads, HEADS)[0]
    elif any(key.startswith("classifier.") for key in weights):
        weights = {key if key.startswith("classifier.") else layout.prefix + key: v for key, v in weights.items()}
    return Released(
        f"{layout.name} with {HEADS.name}" if heads else layout.name,
        weights,
        missing=fit.missing,
        left_out=(*routed, *no_place, *(key for key in others if key not in heads)),
        notes=(*layout.writing, *(GATES for _ in routed[:1])),
    )
