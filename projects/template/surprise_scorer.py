"""Score locations by how little they resemble the rest of their picture."""

from torch import Tensor

from mmsparse.registry import MODELS
from mmsparse.sparsity import Scorer


@MODELS.register_module()
class SurpriseScorer(Scorer):
    """The distance of a location's features from their mean over the picture, as a share of the picture's own mean."""

    def forward(self, tokens: Tensor, alive: Tensor | None = None) -> Tensor:
        alive = tokens.new_ones(tokens.shape[:2]) if alive is None else alive.to(tokens)
        distance = (tokens - _mean(tokens, alive)).norm(dim=-1, keepdim=True)
        return (distance / (_mean(distance, alive) + 1e-6)).squeeze(-1) - 1.0


def _mean(values: Tensor, alive: Tensor) -> Tensor:
    """Over the locations (B, N, C) that are alive (B, N)."""
    return (values * alive.unsqueeze(-1)).sum(dim=1, keepdim=True) / alive.sum(dim=1).clamp_min(1.0)[:, None, None]
