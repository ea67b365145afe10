"""Do converted weights fit the network they are for?"""

from dataclasses import dataclass

from mmsparse.registry import build

from .dense import Converted

HEADS = {"convnext": "head.fc.", "swin": "head.fc.", "vit": "head.layers.head."}
FINAL_NORMS = {"convnext": "backbone.norm3.", "swin": "backbone.norm3.", "vit": "backbone.ln1."}


@dataclass(frozen=True)
class Fit:
    """Names of weights: found on both sides, only in the network, only in the file, of other parts of its model."""

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    carried: list[str]


def check_fit(converted: Converted) -> Fit:
    """Compare names and shapes with the network itself; a ValueError if a part of it would stay untrained.

    Only the classification head and the norm before it may be missing: pre-trained and detection weights have none.
    """
    head = HEADS[converted.family]
    own = {f"backbone.{name}": value.shape for name, value in build(converted.backbone).named_parameters()}
    classes = converted.weights[f"{head}weight"].shape if f"{head}weight" in converted.weights else None
    own.update({f"{head}weight": classes, f"{head}bias": classes and classes[:1]})
    given = converted.weights
    carried = [name for name in given if not name.startswith(("backbone.", "head."))]
    fit = Fit(
        loaded=[name for name in own if name in given],
        missing=[name for name in own if name not in given],
        unexpected=[name for name in given if name not in own and name not in carried],
        carried=carried,
    )
    wrong = [f"{name} {tuple(given[name].shape)}" for name in fit.loaded if own[name] != given[name].shape]
    needed = [name for name in fit.missing if not name.startswith((head, FINAL_NORMS[converted.family]))]
    for what, names in (("are unexpected", fit.unexpected), ("are missing", needed), ("have another shape", wrong)):
        if names:
            raise ValueError(
                f"taken for {converted.layout} weights, but {len(names)} of them {what}, such as {', '.join(names[:3])}"
            )
    return fit
