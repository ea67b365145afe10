from .masks import SlimMasks
from .significance_hook import SignificanceHook
from .slim_vit import FixedSelector, MaskScorer, SlimViT

__all__ = ["FixedSelector", "MaskScorer", "SignificanceHook", "SlimMasks", "SlimViT"]
