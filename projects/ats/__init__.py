from .sampling import InverseSelector
from .significance import ValueAttentionScorer

__all__ = ["InverseSelector", "ValueAttentionScorer"]
