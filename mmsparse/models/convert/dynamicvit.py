"""The released DynamicViT checkpoints (ConvNeXt, Swin, DeiT) -> dense weights, scorers and fast paths of ours."""

import re
from dataclasses import replace

from torch import Tensor

from .dense import Converted, convert_dense
from .layouts import State

PREDICTOR = r"(?:layers\.2\.)?score_predictor\.(\d+)\.(in|out)_conv\.(\d)\.(weight|bias)$"
FAST = r"(?:stages\.2|layers\.2\.blocks)\.(\d+)\.(?:fast_path|fastmlp\.fc1)\.([01])\.(weight|bias)$"
FAST_SCALE = "stages.2.{}.fast_path_gamma"
# LayerNorms of predictors and fast paths: torch's default, except in ConvNeXt, which has its own
EPS = {"convnext": 1e-6, "swin": 1e-5, "vit": 1e-5}
RATIO_NOTE = (
    "the keep ratio is no weight: give the one of the release (0.7 or 0.9 in the name of the file) as "
    "sparsity=dict(keep_ratio=...)"
)


def convert_dynamicvit(state: State) -> Converted:
    """The weights of a released dynamic network; a ValueError if they are none or of an unknown one."""
    if any(key.startswith(("aux_head.", "patch_embed.conv1.")) for key in state):
        raise ValueError("this is an LV-ViT, whose network is a project: use `python -m projects.lvvit.convert`")
    if any("router." in key for key in state):
        raise ValueError("these weights already have the OpenMMLab layout; load them as they are")
    if not any("score_predictor." in key for key in state):
        raise ValueError("these weights hold no score_predictor; for dense ones use `mmsparse convert-dense`")
    predictors = {key: match for key in state if (match := re.match(PREDICTOR, key))}
    fast = {key: match for key in state if (match := re.match(FAST, key))}
    blocks = sorted({int(match[1]) for match in fast.values()})
    scales = {FAST_SCALE.format(block) for block in blocks}
    dense = convert_dense({k: v for k, v in state.items() if k not in predictors.keys() | fast.keys() | scales})
    stage, number = (2 if blocks else 0), 1 + max(int(match[1]) for match in predictors.values())
    # Predictors stand at equal distances; the fast paths begin at the first one. DeiT has none, and four quarters.
    step = blocks[0] if blocks else _depth(state) // (number + 1)
    places = [(stage, step * (i + 1)) for i in range(number)]
    new = {}
    for key, match in predictors.items():
        block, part, layer, name = places[int(match[1])][1], match[2], match[3], match[4]
        value = state[key]
        if (part, layer) == ("out", "4"):
            value = _keep_logit(key, value)
        ours = f"{'embed' if part == 'in' else 'head'}.{layer}.{name}"
        new[f"backbone.router.decisions.{stage}_{block}.scorer.{ours}"] = (
            value.flatten(1) if value.dim() == 4 else value
        )
    for key, match in fast.items():
        layer, value = "norm" if match[2] == "0" else "linear", state[key]
        scale = state.get(FAST_SCALE.format(match[1]))
        if layer == "linear" and scale is not None:
            value = value * scale.view(-1, *[1] * (value.dim() - 1))
        new[f"backbone.router.fast_paths.{stage}_{match[1]}.{layer}.{match[3]}"] = value
    sparsity = dict(places=places, scorer=dict(type="LocalGlobalScorer", eps=EPS[dense.family]))
    if blocks:
        sparsity.update(fast_path=dict(type="LinearFastPath", eps=EPS[dense.family]))
    else:
        sparsity.update(cumulative=True)
    return replace(
        dense,
        layout=f"DynamicViT release, {dense.layout}",
        weights={**dense.weights, **new},
        backbone={**dense.backbone, "sparsity": sparsity},
        notes=(RATIO_NOTE,),
    )


def _keep_logit(key: str, value: Tensor) -> Tensor:
    """Two log-probabilities (keep, drop) -> the logit of keep, whose sigmoid is the first one's probability."""
    if len(value) != 2:
        raise ValueError(f"expected {key} to have 2 rows (keep, drop), but got {len(value)}")
    return value[:1] - value[1:]


def _depth(state: State) -> int:
    return 1 + max(int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.", key)))
