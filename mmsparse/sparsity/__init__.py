"""The idea: score, select, route. Knows tensors; knows no backbone, no mmdet, no mmseg."""

from .budget import check_keep_ratio, num_keep
from .decider import Aux, Decider, Router, record_decisions, router_keys, scored_by
from .dials import Dial, Tunable, budgets
from .fast_paths import FastPath, IdentityFastPath, LinearFastPath
from .losses import ratio_loss, score_loss
from .new_parts import NewPart, adopt, new_prefixes
from .paths import Path, Paths, conv_paths, take_paths
from .peak_scorer import PeakScorer
from .scorers import (
    AttentionScorer,
    Context,
    FeatureNormScorer,
    KeyNormScorer,
    LocalGlobalScorer,
    MLPScorer,
    RandomScorer,
    Scorer,
    SharedScorer,
)
from .selection import Geometry, Selection
from .selectors import GumbelSelector, Selector, ThresholdSelector, TopKSelector
from .units import unit_features
from .valid import Valid, real_sizes, valid_units

__all__ = [
    "AttentionScorer",
    "Aux",
    "Context",
    "Decider",
    "Dial",
    "FastPath",
    "FeatureNormScorer",
    "Geometry",
    "GumbelSelector",
    "IdentityFastPath",
    "KeyNormScorer",
    "LinearFastPath",
    "LocalGlobalScorer",
    "MLPScorer",
    "NewPart",
    "Path",
    "Paths",
    "PeakScorer",
    "RandomScorer",
    "Router",
    "Scorer",
    "Selection",
    "Selector",
    "SharedScorer",
    "ThresholdSelector",
    "TopKSelector",
    "Tunable",
    "Valid",
    "adopt",
    "budgets",
    "check_keep_ratio",
    "conv_paths",
    "new_prefixes",
    "num_keep",
    "ratio_loss",
    "real_sizes",
    "record_decisions",
    "router_keys",
    "score_loss",
    "scored_by",
    "take_paths",
    "unit_features",
    "valid_units",
]
