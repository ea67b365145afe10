from .losses import SmoothDecisionsHook, TokenCutHook
from .scorers import IdleScorer, PropagationScorer
from .tpc_vit import TPCViT

__all__ = ["IdleScorer", "PropagationScorer", "SmoothDecisionsHook", "TPCViT", "TokenCutHook"]
