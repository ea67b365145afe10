"""Holds the share of heads and layers that are used to its target."""

from typing import Any

import torch
from torch import Tensor, nn

from mmsparse.calls import Call
from mmsparse.engine import LossHook
from mmsparse.registry import HOOKS

from .choices import Choice, Policy


@HOOKS.register_module()
class UsageHook(LossHook):
    """Adds ``loss_usage``: squared distances of the shares of used heads and layers from what the policy aims at.

    Shares are means over the batch and all blocks, so an easy picture may use less than another. They are logged as
    ``usage/heads`` and ``usage/layers``. The tokens' share is held by ``SparsityHook(per_image=False)``.

    Args:
        weight: Of each of the two (released: 2).
    """

    name = "loss_usage"

    def __init__(self, weight: float = 2.0) -> None:
        super().__init__(weight=weight)

    def watch(self, model: nn.Module) -> list[Any]:
        self._policies = [module for module in model.modules() if isinstance(module, Policy)]
        if not self._policies:
            raise ValueError(
                f"UsageHook: {type(model).__name__} has no policy. Give its backbone type='mmsparse.AdaViT' and "
                "policy=dict(heads=0.5, layers=0.5), or remove the hook"
            )
        choices = [choice for policy in self._policies for choice in policy.dials]
        return [choice.register_forward_hook(self._see) for choice in choices]

    def _see(self, choice: Choice, args: tuple, gates: Tensor) -> None:
        if choice.training and torch.is_grad_enabled():
            self.seen.append((choice, gates))

    def losses(self, model: nn.Module, call: Call, seen: list[tuple[Choice, Tensor]]) -> dict[str, Tensor]:
        if not seen:
            return {}
        loss, shares = 0.0, {}
        for kind in ("heads", "layers"):
            taken = [(choice, gates) for choice, gates in seen if choice.name.startswith(kind)]
            if taken:
                share = torch.stack([gates.mean() for _, gates in taken]).mean()
                target = sum(choice.keep_ratio for choice, _ in taken) / len(taken)
                loss = loss + (share - target).square()
                shares[f"usage/{kind}"] = share.detach()
        return {self.name: self.weight * loss, **shares}
