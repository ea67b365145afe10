"""Do converted weights fit the network they are for?"""

from dataclasses import dataclass

from mmsparse.registry import build

from .dense import Converted

CLASSIFIERS = {"convnext": "head.fc.", "swin": "head.fc.", "vit": "head.layers.head."}
FINAL_NORMS = {"convnext": "backbone.norm3.", "swin": "backbone.norm3.", "vit": "backbone.ln1."}
COUNTS = "num_batches_tracked"  # of batches, which inference and a new training do without


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
    head, given = CLASSIFIERS[converted.family], converted.weights
    own = {f"backbone.{name}": value.shape for name, value in build(converted.backbone).named_parameters()}
    for part, config in converted.heads.items():
        own.update({f"{part}.{name}": value.shape for name, value in build(config).state_dict().items()})
    if not converted.heads:
        classes = given[f"{head}weight"].shape if f"{head}weight" in given else None
        own.update({f"{head}weight": classes, f"{head}bias": classes and classes[:1]})
    parts = ("backbone.", "head.", *(f"{part}." for part in converted.heads))
    carried = [name for name in given if not name.startswith(parts)]
    fit = Fit(
        loaded=[name for name in own if name in given],
        missing=[name for name in own if name not in given and not name.endswith(COUNTS)],
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
