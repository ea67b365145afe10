"""The idea: score, select, route. Knows tensors; knows no backbone, no mmdet, no mmseg."""

from .budget import check_keep_ratio, expand_keep_ratio, num_keep, paper_places
from .conv_routing import ConvRouter, RoutedConv2d
from .decisions import Budgeted, Decided, Decision, record_decisions, router_keys
from .dials import Dial, Tunable, budgets
from .fast_paths import FastPath, IdentityFastPath, LinearFastPath
from .losses import ratio_loss, score_loss
from .new_parts import NewPart, new_prefixes
from .routing import ENTERING, Router, build_router, route, routed_blocks
from .scorers import (
    AttentionScorer,
    FeatureNormScorer,
    KeyNormScorer,
    LocalGlobalScorer,
    MLPScorer,
    RandomScorer,
    Scorer,
    SharedScorer,
)
from .selection import Selection, Tiles
from .selectors import GumbelSelector, Selector, ThresholdSelector, TopKSelector
from .valid import Valid, real_sizes, valid_locations

__all__ = [
    "ENTERING",
    "AttentionScorer",
    "Budgeted",
    "ConvRouter",
    "Decided",
    "Decision",
    "Dial",
    "FastPath",
    "FeatureNormScorer",
    "GumbelSelector",
    "IdentityFastPath",
    "KeyNormScorer",
    "LinearFastPath",
    "LocalGlobalScorer",
    "MLPScorer",
    "NewPart",
    "RandomScorer",
    "RoutedConv2d",
    "Router",
    "Scorer",
    "Selection",
    "Selector",
    "SharedScorer",
    "ThresholdSelector",
    "Tiles",
    "TopKSelector",
    "Tunable",
    "Valid",
    "budgets",
    "build_router",
    "check_keep_ratio",
    "expand_keep_ratio",
    "new_prefixes",
    "num_keep",
    "paper_places",
    "ratio_loss",
    "real_sizes",
    "record_decisions",
    "route",
    "routed_blocks",
    "router_keys",
    "score_loss",
    "valid_locations",
]
