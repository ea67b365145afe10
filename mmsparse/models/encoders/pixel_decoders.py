"""The pixel decoder of Mask2Former whose deformable encoder is routed."""

from collections.abc import Mapping
from typing import Any

from mmdet.models.layers import Mask2FormerTransformerEncoder, MSDeformAttnPixelDecoder
from mmengine.config import ConfigDict

from mmsparse.registry import MODELS

from .deformable import RoutedEncoder


class PixelEncoder(RoutedEncoder, Mask2FormerTransformerEncoder):
    """That of a pixel decoder; its coarsest level comes first."""


@MODELS.register_module()
class DynamicMSDeformAttnPixelDecoder(MSDeformAttnPixelDecoder):
    """MSDeformAttnPixelDecoder whose encoder refines selected tokens alone.

    Args:
        sparsity: Arguments of :class:`EncoderRouter`; None is the stock class.
        encoder: Arguments of the encoder.
        kwargs: The stock class's other arguments.
    """

    def __init__(
        self, *args: Any, encoder: dict[str, Any], sparsity: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, encoder=ConfigDict(encoder), **kwargs)
        self._routed = sparsity is not None
        if self._routed:
            name = type(self).__name__
            self.encoder = PixelEncoder(**encoder, sparsity=sparsity, finest_last=True, owner=name)

    def init_weights(self) -> None:
        super().init_weights()
        if self._routed:
            self.encoder.begin()
