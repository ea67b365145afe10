"""A teacher's late attention tells an early block which tokens will matter."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmsparse.apis import find_deciders
from mmsparse.calls import Call
from mmsparse.engine import TeacherHook
from mmsparse.models.backbones.block_attention import BlockAttention
from mmsparse.registry import HOOKS

from .importance import TokenImportanceScorer


@HOOKS.register_module()
class TokenDistillHook(TeacherHook):
    """Adds ``loss_distill_token`` to TeacherHook: the divergence of the importance from a teacher's attention.

    The teacher's is that of its class token (the mean query, if there is none) on the other tokens, averaged over the
    heads of its last blocks. It teaches in every step, whether tokens are dropped in it or not.

    Args:
        token_weight: Weight of the divergence.
        blocks: How many of the teacher's last blocks are averaged.
        kwargs: Arguments of ``TeacherHook``.
    """

    def __init__(self, token_weight: float = 1.0, blocks: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_weights(token_weight=token_weight)
        if type(blocks) is not int or blocks < 1:
            raise ValueError(
                f"TokenDistillHook: expected argument `blocks` to be a positive whole number, but got {blocks!r}"
            )
        self.blocks = blocks
        self._rows: list[Tensor] = []  # (B, N) of each block of the teacher

    def watch(self, model: nn.Module) -> list[Any]:
        handles = super().watch(model)
        scorers = [decider.scorer for decider in find_deciders(model.backbone)]
        self._scorers = scorers = [scorer for scorer in scorers if isinstance(scorer, TokenImportanceScorer)]
        teacher = self.parts["backbone"]
        layers = getattr(teacher, "layers", ())
        if not scorers or len(layers) < self.blocks:
            raise ValueError(
                f"TokenDistillHook: expected a student with a TokenImportanceScorer and a teacher with at least "
                f"{self.blocks} plain transformer blocks (argument `blocks`), but got {len(scorers)} such scorers and "
                f"{type(teacher).__name__} with {len(layers)} blocks"
            )
        self._extra = getattr(teacher, "num_extra_tokens", 0)
        handles += [scorer.register_forward_hook(self._see) for scorer in scorers]
        return handles + [layer.register_forward_pre_hook(self._read) for layer in layers[-self.blocks :]]

    def take(self, model: nn.Module) -> list[Any]:
        self._rows = []  # blocks of a student that teaches itself were read, too
        return super().take(model)

    def _read(self, layer: nn.Module, args: tuple) -> None:
        attention = BlockAttention(args[0], layer.ln1, layer.attn.qkv, layer.attn.num_heads, self._extra)
        self._rows.append(attention.class_row(None))

    def losses(self, model: nn.Module, call: Call, seen: list[dict[Any, Any]]) -> dict[str, Tensor]:
        losses = super().losses(model, call, seen)
        rows, self._rows = self._rows, []
        if not seen:
            return losses
        if len(rows) != self.blocks:
            raise ValueError(
                f"TokenDistillHook: argument `blocks`={self.blocks}: only {len(rows)} of the teacher's last blocks "
                "attend to the whole picture, the others to windows. Take fewer"
            )
        target = torch.stack(rows).mean(dim=0)
        scores = [seen[-1][scorer] for scorer in self._scorers]  # (B, N) of each place
        if scores[0].shape != target.shape:
            raise ValueError(
                f"TokenDistillHook: argument `teacher`: it has {target.shape[1]} tokens where the student has "
                f"{scores[0].shape[1]}. Take a teacher of the same patch size"
            )
        terms = [F.kl_div(one.float(), target, reduction="batchmean") for one in scores]
        losses["loss_distill_token"] = self.token_weight * sum(terms) / len(terms)
        return losses
