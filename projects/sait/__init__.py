from .distill_hook import TokenDistillHook
from .importance import ImportanceSelector, TokenImportanceScorer

__all__ = ["ImportanceSelector", "TokenDistillHook", "TokenImportanceScorer"]
