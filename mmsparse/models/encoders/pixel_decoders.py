"""The pixel decoder of Mask2Former, routed: the tokens of its encoder, and the convolution of its finest map."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.models.layers import Mask2FormerTransformerEncoder, MSDeformAttnPixelDecoder
from mmengine.config import ConfigDict
from torch import Tensor

from mmsparse.models.convs import ConvRouter, RoutedPart, routable
from mmsparse.registry import MODELS, check_keys
from mmsparse.sparsity import router_keys

from .deformable import RoutedEncoder
from .router import EncoderRouter


class PixelEncoder(RoutedEncoder, Mask2FormerTransformerEncoder):
    """That of a pixel decoder; its coarsest level comes first."""


@MODELS.register_module()
class DynamicMSDeformAttnPixelDecoder(RoutedPart, MSDeformAttnPixelDecoder):
    """MSDeformAttnPixelDecoder whose encoder refines selected tokens alone, and whose 3x3 convolutions are routed.

    Args:
        encoder: Arguments of the encoder.
        sparsity: Arguments of :class:`EncoderRouter` and of :class:`ConvRouter`, which is for the maps that the
            encoder is not given. Of several keep ratios those of the encoder come first. None is the stock class.
        kwargs: The stock class's other arguments.
    """

    prefix = "pixels"

    def __init__(
        self, *args: Any, encoder: dict[str, Any], sparsity: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        shares = {EncoderRouter: sparsity, ConvRouter: sparsity}
        if isinstance(sparsity, Mapping):
            keys = {router: router_keys(router) for router in shares}
            check_keys(f"{type(self).__name__}: argument `sparsity`", sparsity, set().union(*keys.values()))
            shares = {router: {k: v for k, v in sparsity.items() if k in known} for router, known in keys.items()}
            if isinstance(ratios := sparsity.get("keep_ratio"), Sequence):
                given = ConfigDict(encoder).layer_cfg.self_attn_cfg.num_levels
                count = min(sparsity.get("levels", 3), given)
                shares[EncoderRouter]["keep_ratio"], shares[ConvRouter]["keep_ratio"] = ratios[:count], ratios[count:]
        super().__init__(*args, encoder=ConfigDict(encoder), sparsity=shares[ConvRouter], **kwargs)
        if sparsity is not None:
            name = type(self).__name__
            self.encoder = PixelEncoder(**encoder, sparsity=shares[EncoderRouter], finest_last=True, owner=name)

    def routed_convs(self, levels: int) -> Sequence[str]:
        return routable(self, "output_convs.")

    def init_weights(self) -> None:
        super().init_weights()
        if self.router is not None:
            self.encoder.begin()

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        pixels, maps = super().forward(feats)
        return pixels.contiguous(), [m.contiguous() for m in maps]
