"""Score locations by how little they resemble the rest of their picture."""

from torch import Tensor

from mmsparse.registry import MODELS
from mmsparse.sparsity import Context, Scorer
from mmsparse.sparsity.scorers import ALL, mean_of_alive


@MODELS.register_module()
class SurpriseScorer(Scorer):
    """The distance of a location's features from their mean over the picture, as a share of the picture's own mean."""

    def forward(self, tokens: Tensor, context: Context = ALL) -> Tensor:
        distance = (tokens - mean_of_alive(tokens, context.alive)).norm(dim=-1, keepdim=True)
        return (distance / (mean_of_alive(distance, context.alive) + 1e-6)).squeeze(-1) - 1.0
