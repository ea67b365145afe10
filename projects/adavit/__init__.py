from .adavit import AdaViT
from .choices import LinearScorer
from .usage_hook import UsageHook

__all__ = ["AdaViT", "LinearScorer", "UsageHook"]
