"""Heads of UperNetForSemanticSegmentation, of the Hugging Face hub, as mmseg's UPerHead and FCNHead."""

import re
from collections.abc import Sequence
from typing import Any

from .layouts import Layout, State, rules

POOL_SCALES = (1, 2, 3, 6)
HEADS = Layout(
    "UPerNet",
    "upernet",
    r"(decode|auxiliary)_head\..*\.batch_norm\.",
    rules(
        ("decode_head.classifier.{p}", "decode_head.conv_seg.{p}"),
        ("auxiliary_head.classifier.{p}", "auxiliary_head.conv_seg.{p}"),
        ("{n}.batch_norm.{p}", "{n}.bn.{p}"),
        ("{n}.conv.weight", "{n}.conv.weight"),
    ),
    release="hf",
    notes=("the scales of the pyramid are no weights but in config.json (pool_scales); (1, 2, 3, 6) is the default",),
)


def head_configs(heads: State, outs: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Of the heads whose weights these are (our names), behind a backbone that returns certain stages."""
    laterals = [key for key in heads if re.fullmatch(r"decode_head\.lateral_convs\.\d+\.conv\.weight", key)]
    channels = [_get(heads, f"decode_head.lateral_convs.{i}.conv.weight").shape[1] for i in range(len(laterals))]
    pooled = [key for key in heads if re.fullmatch(r"decode_head\.psp_modules\.\d+\.1\.conv\.weight", key)]
    if len(pooled) != len(POOL_SCALES):
        raise ValueError(f"expected an UPerNet with 4 pooled maps, but got {len(pooled)}, whose scales are no weights")
    channels.append(_get(heads, "decode_head.psp_modules.0.1.conv.weight").shape[1])
    if len(channels) != len(outs):
        raise ValueError(
            f"incomplete weights: the backbone has norms for {len(outs)} maps, and its UPerNet takes {len(channels)}"
        )
    common = dict(norm_cfg=dict(type="BN", requires_grad=True), align_corners=False)
    classes, width = _get(heads, "decode_head.conv_seg.weight").shape[:2]
    configs = dict(
        decode_head=dict(
            type="mmseg.UPerHead",
            in_channels=channels,
            in_index=list(range(len(channels))),
            pool_scales=POOL_SCALES,
            channels=width,
            num_classes=classes,
            **common,
        )
    )
    if "auxiliary_head.conv_seg.weight" in heads:
        classes, width = heads["auxiliary_head.conv_seg.weight"].shape[:2]
        convs = [key for key in heads if re.fullmatch(r"auxiliary_head\.convs\.\d+\.conv\.weight", key)]
        concat = "auxiliary_head.conv_cat.conv.weight" in heads
        configs["auxiliary_head"] = dict(
            type="mmseg.FCNHead",
            in_channels=channels[2],
            in_index=2,
            channels=width,
            num_convs=len(convs),
            concat_input=concat,
            num_classes=classes,
            **common,
        )
    return configs


def _get(heads: State, key: str) -> Any:
    if key not in heads:
        raise ValueError(f"incomplete weights: nothing in the file becomes {key}")
    return heads[key]
