"""Convolutions of stock backbones, necks and heads, routed."""

from .layer import RoutedConv2d
from .parts import (
    InTurn,
    RoutedConvs,
    RoutedHead,
    RoutedLevels,
    RoutedLoop,
    RoutedNeck,
    RoutedPart,
    RoutedTowers,
    routable,
    routed,
)
from .router import ConvRouter

__all__ = [
    "ConvRouter",
    "InTurn",
    "RoutedConv2d",
    "RoutedConvs",
    "RoutedHead",
    "RoutedLevels",
    "RoutedLoop",
    "RoutedNeck",
    "RoutedPart",
    "RoutedTowers",
    "routable",
    "routed",
]
