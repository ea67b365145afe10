"""Losses on decisions: neighbours should agree, and a cut should not separate tokens that attend to each other."""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsparse.apis import find_deciders
from mmsparse.calls import Call
from mmsparse.engine import LossHook
from mmsparse.models.backbones.block_attention import BlockAttention
from mmsparse.registry import HOOKS
from mmsparse.sparsity import Decider, Selection


class DecisionLossHook(LossHook):
    """Adds a mean over places of something that is computed when each decides."""

    def __init__(self, weight: float) -> None:
        super().__init__(weight=weight)
        self._scores: Tensor | None = None

    def watch(self, model: nn.Module) -> list[Any]:
        decisions = find_deciders(model.backbone)
        if not decisions:
            raise ValueError(
                f"{type(self).__name__}: {type(model.backbone).__name__} decides nothing. Give it `sparsity`, or "
                "remove the hook"
            )
        return [
            *(decider.scorer.register_forward_hook(self._see_scores) for decider in decisions),
            *(decider.register_forward_hook(self._see, with_kwargs=True) for decider in decisions),
        ]

    def term(self, scores: Tensor, selection: Selection, attention: BlockAttention | None) -> Tensor:
        """Of one place; there is no attention in a backbone without."""
        raise NotImplementedError

    def _see_scores(self, scorer: nn.Module, args: tuple, scores: Tensor) -> None:
        self._scores = scores

    def _see(self, decider: Decider, args: tuple, kwargs: dict[str, Any], selection: Selection | None) -> None:
        scores, self._scores = self._scores, None
        if decider.training and selection is not None and torch.is_grad_enabled():
            self.seen.append(self.term(scores, selection, kwargs.get("attention")))

    def losses(self, model: nn.Module, call: Call, terms: list[Tensor]) -> dict[str, Tensor]:
        return {self.name: self.weight * sum(terms) / len(terms)} if terms else {}


@HOOKS.register_module()
class SmoothDecisionsHook(DecisionLossHook):
    """Adds ``loss_smooth``: how far a token's probability to be used is from the mean of the 3x3, squared."""

    name = "loss_smooth"

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def term(self, scores: Tensor, selection: Selection, attention: BlockAttention | None) -> Tensor:
        return roughness(scores.float().sigmoid().unflatten(1, selection.grid))


@HOOKS.register_module()
class TokenCutHook(DecisionLossHook):
    """Adds ``loss_cut``, IdleViT's: a selection should not cut through tokens that attend to each other."""

    name = "loss_cut"

    def __init__(self, weight: float = 20.0) -> None:
        super().__init__(weight)

    def term(self, scores: Tensor, selection: Selection, attention: BlockAttention | None) -> Tensor:
        if attention is None or attention.windows is not None:
            raise ValueError(
                "TokenCutHook: a block that decides does not attend with all tokens to all. Give the model a backbone "
                "mmsparse.DynamicViT that decides in blocks without windows, or use SmoothDecisionsHook"
            )
        logits = replace(attention, graph=True).logits(slice(None), slice(None))
        weight = logits.mean(dim=1).softmax(dim=-1)  # (B, extra + N, extra + N)
        return token_cut(weight, selection.with_extra(attention.extra).keep_mask.float(), attention.extra)


def roughness(values: Tensor) -> Tensor:
    """Mean squared difference between maps (B, H, W) and their 3x3 means."""
    smooth = F.avg_pool2d(values.unsqueeze(1), 3, stride=1, padding=1, count_include_pad=False).squeeze(1)
    return (values - smooth).square().mean()


def token_cut(weight: Tensor, mask: Tensor, extra: int) -> Tensor:
    """Attention (B, n, n) that crosses a cut (B, n) and attention that kept tokens spend outside of it, squared."""
    differs = (mask.unsqueeze(2) - mask.unsqueeze(1)).abs()
    across = (differs * weight)[..., extra:].sum(dim=2)
    within = (mask.unsqueeze(2) * mask.unsqueeze(1) * weight).sum(dim=2) - mask
    return across.square().mean() + within.square().mean()
