"""Small variants of the published configs: the same network, places, selectors and tiles, but narrow."""

import math
from functools import cache
from pathlib import Path
from typing import Any

from mmpretrain.models import ConvNeXt, VisionTransformer

from mmsparse.configs import read_config, without_pretrained
from projects.lvvit.lvvit import ARCHS

ROOT = Path(__file__).parents[1]
WIDTHS = {
    *("in_channels", "out_channels", "channels", "feat_channels", "conv_out_channels", "fc_out_channels"),
    *("embed_dims", "embed_dim", "feedforward_channels", "num_channels"),
}
CLASSES = 5


def published() -> list[Path]:
    """Every config to start from, those of projects included; rivals have nothing of ours, and studies no model."""
    paths = [*ROOT.glob("configs/**/*.py"), *ROOT.glob("projects/*/configs/**/*.py")]
    return sorted(path for path in paths if not {"_base_", "rivals", "study"} & set(path.parts))


@cache
def small_config(path: Path) -> dict[str, Any]:
    """Scope, small ``model`` and what collects the losses of routing, of a config: all that a step depends on."""
    cfg = read_config(str(path)).to_dict()
    without_pretrained(cfg["model"])
    cfg["model"].pop("data_preprocessor", None)  # pictures are made ready
    hooks = [hook for hook in cfg.get("custom_hooks", []) if hook["type"] == "mmsparse.SparsityHook"]
    return dict(scope=cfg["default_scope"], model=shrink("model", cfg["model"]), hooks=hooks)


def shrink(key: str, value: Any) -> Any:
    """One entry of a model config, and what it holds: widths fall to about a twelfth, depths and budgets stay."""
    if isinstance(value, dict):
        if "CSPNeXt" in str(value.get("type")) and "arch" in value:
            value = {**value, "widen_factor": 1 / 32}
        elif isinstance(value.get("arch"), str):
            zoos = dict(ConvNeXt=ConvNeXt.arch_settings, LVViT=ARCHS)
            zoo = next((zoo for name, zoo in zoos.items() if name in value["type"]), VisionTransformer.arch_zoo)
            value = {**value, "arch": zoo[value["arch"]]}
        if "DINOHead" in str(value.get("type")):
            value = {"embed_dims": 256, **value}
        if "ResNet" in str(value.get("type")):
            value = {**value, "base_channels": 4, "stem_channels": 4}
        small = {name: shrink(name, part) for name, part in value.items()}
        if value.get("backbone", {}).get("depth") in (18, 34) and "neck" in value:  # narrower than what they lead to
            small["neck"]["in_channels"] = [4 * 2**stage for stage in value["backbone"]["out_indices"]]
        return {**small, "type": "BN"} if value.get("type") == "SyncBN" else small
    if isinstance(value, list | tuple):
        return [shrink(key, part) for part in (value[:CLASSES] if key == "class_weight" else value)]
    if key in WIDTHS and isinstance(value, int):
        return width(value)
    if key == "num_heads":
        return 2 ** math.floor(math.log2(value / 3))
    if key == "num_queries":
        return min(value, 20)  # small maps have few tokens to choose from
    if key == "num_groups":
        return 8  # of the narrowest
    if key == "num_feats":  # of two coordinates, which together are as wide as what they are added to
        return width(2 * value) // 2
    if key == "num_classes":
        return CLASSES
    if key == "ignore_index":  # as the labels of tests have it
        return 255
    if key == "window_size":  # small maps have several of ViTDet's, too
        return value if value <= 7 else 4
    return value


def width(channels: int) -> int:
    """Twice as wide stays twice as wide, from 96 on: 96 and 128 become 8, 768 and 1024 become 64."""
    return channels if channels < 16 else 8 * 2 ** max(math.floor(math.log2(channels / 96)), 0)
