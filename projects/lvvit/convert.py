"""Convert a released LV-ViT checkpoint, of DynamicViT or dense, for a classifier with LVViT and TokenLabelHead.

    python -m projects.lvvit.convert SRC DST

The keep ratio and what residual branches are divided by are no weights: the first is given in the config, the second
follows from the size.
"""

import argparse
import re
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from mmsparse.checkpoints import check_checkpoint, read_checkpoint, weights_of
from mmsparse.cli.checkpoint_files import check_destination, to_bytes, write_whole
from mmsparse.cli.mistakes import say_mistakes
from mmsparse.mistakes import mistakes_in
from mmsparse.models.convert import Converted, convert_dense, convert_dynamicvit
from mmsparse.registry import build
from mmsparse.trust import add_trust, trust_checkpoints

from .lvvit import ARCHS

STEM = r"patch_embed\.(conv|bn)\d\."


def convert_lvvit(state: dict[str, Tensor]) -> Converted:
    """The weights of a release; a ValueError if they are none or do not fit."""
    if not any(re.match(STEM, key) for key in state):
        raise ValueError(
            "these weights have no patch_embed.conv1, so they are of no LV-ViT; use `mmsparse convert-dynamicvit` or "
            "`mmsparse convert-dense`"
        )
    stem = {f"backbone.{key}": value for key, value in state.items() if re.match(STEM, key)}
    aux = {f"head.{key}": value for key, value in state.items() if key.startswith("aux_head.")}
    rest = {key: v for key, v in state.items() if not re.match(STEM, key) and not key.startswith("aux_head.")}
    routed = any("score_predictor." in key for key in rest)
    converted = (convert_dynamicvit if routed else convert_dense)(rest)
    weights = {**converted.weights, **stem, **aux}
    backbone = _backbone(weights)
    if routed:
        backbone["sparsity"] = converted.backbone["sparsity"]
    own = build(backbone).state_dict()
    given = {key.removeprefix("backbone."): v.shape for key, v in weights.items() if key.startswith("backbone.")}
    wrong = [
        key for key in own.keys() | given.keys() if key not in given or key not in own or own[key].shape != given[key]
    ]
    if wrong:
        raise ValueError(f"taken for LV-ViT weights, but {len(wrong)} of them do not fit, such as {sorted(wrong)[:3]}")
    layout = f"{'DynamicViT release, ' if routed else ''}LV-ViT"
    return replace(converted, layout=layout, weights=weights, backbone=backbone)


def _backbone(weights: dict[str, Tensor]) -> dict:
    """Its config, read from names and shapes."""
    projection = weights["backbone.patch_embed.projection.weight"]  # (C, stem, patch / 2, patch / 2)
    dims, patch = projection.shape[0], 2 * projection.shape[2]
    depth = 1 + max(int(match[1]) for key in weights if (match := re.match(r"backbone\.layers\.(\d+)\.", key)))
    hidden = weights["backbone.layers.0.ffn.layers.0.0.weight"].shape[0]
    arch = dict(embed_dims=dims, num_layers=depth, num_heads=max(dims // 64, 1), feedforward_channels=hidden)
    named = [n for n, known in ARCHS.items() if (known["embed_dims"], known["num_layers"]) == (dims, depth)]
    side = round((weights["backbone.pos_embed"].shape[1] - 1) ** 0.5)
    config = dict(type="mmsparse.LVViT", arch=named[0] if named else arch, img_size=side * patch, patch_size=patch)
    return {**config, "stem_channels": projection.shape[1], "out_type": "raw"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m projects.lvvit.convert", description=__doc__.split("\n")[0])
    parser.add_argument("src", help="checkpoint to convert: a file or a URL")
    parser.add_argument("dst", type=Path, help="where the result goes; its folder is made if needed")
    add_trust(parser)
    args = parser.parse_args()
    trust_checkpoints(args.trust_checkpoint)
    check_checkpoint(args.src, "src")
    check_destination(args.src, args.dst)
    content = read_checkpoint(args.src, "src")
    with mistakes_in(f"Argument `src`: {args.src}"):
        converted = convert_lvvit(weights_of(content, ("state_dict", "model")))
    write_whole(to_bytes(dict(state_dict={k: v.contiguous() for k, v in converted.weights.items()})), args.dst)
    print(f"{converted.layout} -> {args.dst}\n  backbone={converted.backbone}")
    for note in converted.notes:
        print(f"  note: {note}")


if __name__ == "__main__":
    with say_mistakes():
        main()
