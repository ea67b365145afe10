"""A network that decides again what it decided before, so that two runs of it differ in their arithmetic alone."""

from functools import partial
from typing import Any

import pytest
from torch import Tensor, nn

from mmsparse.apis import find_deciders
from mmsparse.sparsity import Geometry, Selection


def replay(monkeypatch: pytest.MonkeyPatch, model: nn.Module, selections: list[Selection]) -> None:
    """Every place scores as ever; its selector then takes what is given, and a gate of the present scores."""
    for decision, chosen in zip(find_deciders(model), selections, strict=True):
        monkeypatch.setattr(decision.selector, "forward", partial(_again, chosen=chosen))


def _again(
    scores: Tensor, geometry: Geometry, *_: Any, chosen: Selection, before: Selection | None = None, **__: Any
) -> Selection:
    mask, soft = chosen.keep_mask.to(scores.device), scores.float().sigmoid()
    gate = mask + (soft - soft.detach()) if scores.requires_grad else None
    return Selection(geometry, mask, gate, chosen.count).within(before)
