"""LV-ViT's prediction: of the class token, and half of what the tokens say at most."""

from typing import Any

from mmpretrain.models import VisionTransformerClsHead
from torch import Tensor, nn

from mmsparse.registry import MODELS


@MODELS.register_module()
class TokenLabelHead(VisionTransformerClsHead):
    """mmpretrain's head of the class token, and one of all other tokens beside it.

    For a backbone with ``out_type="raw"``. The logits are those of the class token and half of the largest of all other
    tokens', class by class.

    Args:
        args: Arguments of ``mmpretrain.VisionTransformerClsHead``.
        kwargs: The same.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.aux_head = nn.Linear(self.in_channels, self.num_classes)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        tokens = feats[-1]  # (B, 1 + N, C)
        if tokens.dim() != 3:
            raise ValueError(
                f"TokenLabelHead: expected tokens (B, 1 + N, C), but got {tuple(tokens.shape)}. Set out_type='raw' in "
                "the backbone"
            )
        return super().forward((tokens[:, 0],)) + 0.5 * self.aux_head(tokens[:, 1:]).amax(dim=1)
