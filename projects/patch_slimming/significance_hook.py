"""The dynamic variant: scorers learn to tell beforehand how significant the tokens of a picture will be."""

import torch
from torch import Tensor, nn

from mmsparse.calls import Call
from mmsparse.engine import SparsityHook
from mmsparse.registry import HOOKS
from mmsparse.sparsity import Aux
from mmsparse.sparsity.scorers import standardised

from .blocks import record
from .significance import significance


@HOOKS.register_module()
class SignificanceHook(SparsityHook):
    """``SparsityHook`` whose loss is a regression of each picture's own significance by the scorers of a ``SlimViT``.

    The targets are computed in each step from the attention maps of the network as it is, with nothing dropped: their
    logarithm, standardised over the tokens of each picture. Only the order of a picture's scores decides.

    Args:
        loss_weight: Of the regression.
        anneal: See ``SparsityHook``.
    """

    def __init__(self, loss_weight: float = 1.0, anneal: tuple[float, float] | None = None) -> None:
        super().__init__(loss_weight=loss_weight, anneal=anneal)

    def losses(self, model: nn.Module, call: Call, aux: list[Aux]) -> dict[str, Tensor]:
        self._targets = regression_targets(model.backbone, call.inputs)
        return super().losses(model, call, aux)

    def _of_place(self, aux: Aux) -> Tensor:
        target = self._targets[int(aux.name.removeprefix("b"))].to(aux.scores.device)
        error = (aux.scores.float() - target).square()
        return self.loss_weight * (error.mean() if aux.valid is None else error[aux.valid].mean())


@torch.no_grad()
def regression_targets(backbone: nn.Module, pictures: Tensor) -> list[Tensor]:
    """For each block the standardised logarithm of the scores (B, N)."""
    training = backbone.training
    backbone.eval()
    try:
        x, _ = backbone._embed(pictures)
        kept = torch.ones(backbone.num_layers, x.shape[1], dtype=torch.bool, device=x.device)
        whole = backbone.out_type != "cls_token"
        if not whole:
            kept[-1, 1:] = False
        inputs, maps = record(backbone.layers, x, kept)
        if not whole:  # the paper's scores begin in front of the last block, which computes the class token alone
            scores = [*significance(maps, inputs[:-1], whole)[:-1], maps[-1].mean(dim=1)[:, 0]]
        else:
            scores = significance(maps, inputs[:-1], whole)
    finally:
        backbone.train(training)
    return [standardised(each[:, backbone.num_extra_tokens :].float().clamp_min(1e-30).log()) for each in scores]
