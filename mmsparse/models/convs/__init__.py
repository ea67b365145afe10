"""Convolutions of stock necks and heads, routed."""

from .layer import RoutedConv2d
from .parts import RoutedNeck, RoutedPart, RoutedTowers
from .router import ConvRouter

__all__ = ["ConvRouter", "RoutedConv2d", "RoutedNeck", "RoutedPart", "RoutedTowers"]
