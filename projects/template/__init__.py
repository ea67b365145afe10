from .surprise_scorer import SurpriseScorer

__all__ = ["SurpriseScorer"]
