"""Detectors of the DETR family whose deformable encoder is routed."""

from collections.abc import Mapping
from typing import Any

from mmdet.models.detectors import DDQDETR, DINO, DeformableDETR

from mmsparse.registry import MODELS

from .deformable import DeformableEncoder


class RoutedDetector:
    """Mixin in front of a stock detector: its encoder refines selected tokens alone.

    Parameters of the stock class keep their names, everything new lives under ``encoder.router``. The argument
    ``sparsity`` holds those of :class:`EncoderRouter`; None is the stock class.
    """

    def __init__(self, *args: Any, sparsity: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self._sparsity = sparsity  # the stock class builds its layers while it is built
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        given = self.encoder
        super()._init_layers()
        if self._sparsity is not None:
            self.encoder = DeformableEncoder(**given, sparsity=self._sparsity, owner=type(self).__name__)

    def init_weights(self) -> None:
        super().init_weights()
        if self._sparsity is not None:
            self.encoder.begin()


@MODELS.register_module()
class DynamicDeformableDETR(RoutedDetector, DeformableDETR):
    """DeformableDETR whose encoder is routed."""


@MODELS.register_module()
class DynamicDINO(RoutedDetector, DINO):
    """DINO whose encoder is routed."""


@MODELS.register_module()
class DynamicDDQDETR(RoutedDetector, DDQDETR):
    """DDQDETR whose encoder is routed."""
